"""The faults of the soak test. Each returns when recovery begins, if that is not when it was called."""

import ctypes
import os
import re
import signal
import struct
import subprocess
import time
from collections import namedtuple

from soak_processes import Failure, shell, wait_for

Fault = namedtuple("Fault", "name guest run")


def kill_daemon(guest, _):
    killed = guest.daemon.process
    begin = time.monotonic()
    killed.kill()
    return begin


def kill_driver(guest, _):
    guest.driver.kill()
    begin = time.monotonic()
    guest.start_driver()
    if hasattr(guest, "await_driver"):
        guest.await_driver()
        # DPDK takes a second to start by itself.
        begin = time.monotonic()
    return begin


def stop_daemon(guest, generator):
    return pause(guest.daemon.process, generator)


def stop_driver(guest, generator):
    return pause(guest.driver, generator)


def pause(process, generator):
    process.send(signal.SIGSTOP)
    time.sleep(generator.uniform(0.1, 1.5))
    process.send(signal.SIGCONT)
    return time.monotonic()


def near_down(guest, generator):
    return down(guest.near, guest.interface, generator)


def far_down(guest, generator):
    return down(guest.far, guest.peer, generator)


def down(namespace, interface, generator):
    shell(f"ip -n {namespace} link set {interface} down")
    time.sleep(generator.uniform(0.05, 1))
    shell(f"ip -n {namespace} link set {interface} up")
    return time.monotonic()


def change_mtu(guest, generator):
    for mtu in (generator.choice([1280, 3000, 9000]), 1500):
        shell(f"ip -n {guest.near} link set {guest.interface} mtu {mtu}")
        time.sleep(0.2)
    return time.monotonic()


def flood(guest, generator):
    program = f"""
import socket, time
port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
port.bind(('{guest.peer}', 0))
end = time.monotonic() + 0.5
while time.monotonic() < end:
    try:
        port.send(b'\\xff' * 6 + b'\\x02\\0\\0\\0\\0\\x78\\x88\\xb5' + bytes({generator.choice([46, 500, 1486])}))
    except OSError:
        pass
"""
    senders = [subprocess.Popen(["ip", "netns", "exec", guest.far, "python3", "-c", program])
               for _ in range(2)]
    for sender in senders:
        sender.wait()
    return time.monotonic()


def delete_interface(guest, generator):
    shell(f"ip -n {guest.near} link delete nic0")
    time.sleep(generator.uniform(0.1, 1))
    begin = time.monotonic()
    guest.make_link()
    return begin


def detach_program(guest, _):
    """As a privileged tool can: by the link of the program, which the daemon holds."""
    text = shell(f"ip -n {guest.near} link show {guest.interface}")
    program = int(re.search(r"prog/xdp id (\d+)", text)[1])
    detach_link_of(program)
    # The daemon looks every 5 s; to close its sockets takes grace periods of RCU, seconds on a busy machine.
    old = guest.daemon.process
    wait_for(30, "the daemon ends", lambda: not old.runs())
    return time.monotonic()


def detach_link_of(program):
    library = ctypes.CDLL(None, use_errno=True)

    def bpf(command, attributes):
        memory = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
        return library.syscall(321, command, memory, len(attributes)), memory.raw

    next_link, open_link, ask, detach = 31, 30, 15, 34
    link = 0
    while True:
        result, answer = bpf(next_link, struct.pack("III", link, 0, 0))
        if result < 0:
            raise Failure(f"no link of XDP program {program}")
        link = struct.unpack_from("I", answer, 4)[0]
        descriptor, _ = bpf(open_link, struct.pack("I", link))
        if descriptor < 0:
            continue
        with os.fdopen(descriptor):
            information = ctypes.create_string_buffer(256)
            bpf(ask, struct.pack("IIQ", descriptor, 256, ctypes.addressof(information)))
            if struct.unpack_from("III", information.raw)[2] == program:
                bpf(detach, struct.pack("I", descriptor))
                return


def change_queues(guest, _):
    """Packets on a queue without a socket stay with the host until it goes again."""
    for queues in (2, 1):
        command = ["ethtool", "-L", guest.interface, "rx", str(queues)]
        result = subprocess.run(["ip", "netns", "exec", guest.near, *command], capture_output=True,
                                check=False)
        if result.returncode and queues == 1:
            raise Failure(f"ethtool -L: {result.stderr}")
        time.sleep(0.3)
    return time.monotonic()


def connections(guest, generator):
    guest.churn(f"--connections={generator.randrange(20, 60)}")
    return time.monotonic()


def restarts(guest, generator):
    guest.churn(f"--restarts={generator.randrange(200, 1000)}",
                *generator.choice([[], ["--packed"], ["--queue-size=8"]]))
    return time.monotonic()


FAULTS = [
    Fault("daemon killed", "frames", kill_daemon),
    Fault("front-end killed (DPDK)", "frames", kill_driver),
    Fault("front-end killed (tap)", "stream", kill_driver),
    Fault("daemon stopped and continued", "frames", stop_daemon),
    Fault("daemon stopped, continued (TCP)", "stream", stop_daemon),
    Fault("front-end stopped and continued", "frames", stop_driver),
    Fault("interface down and up", "frames", near_down),
    Fault("interface down and up (TCP)", "stream", near_down),
    Fault("other end down and up", "frames", far_down),
    Fault("other end down and up (TCP)", "stream", far_down),
    Fault("interface deleted and created", "frames", delete_interface),
    Fault("XDP program detached", "frames", detach_program),
    Fault("MTU changed", "frames", change_mtu),
    Fault("MTU changed (TCP)", "stream", change_mtu),
    Fault("queues changed", "frames", change_queues),
    Fault("packet flood", "frames", flood),
    Fault("packet flood (TCP)", "stream", flood),
    Fault("connections come and go", "stream", connections),
    Fault("rings restarted", "stream", restarts),
]
