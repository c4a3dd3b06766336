"""TCP from a guest at native speed to the host at the far end, or from there to the guest.

  transmit  guest to wire
  receive   wire to guest

The guest is this kernel's own network stack (bench-driver tap) in a namespace that goes with it;
iperf3 moves one stream.  The back-end has a CPU of its own; guest, far end and iperf3 share the
other one, which often is what limits the rate.  So what counts is Gbit/s per CPU of the back-end.

What is charged to the back-end, alike for all contenders: its threads, and what the kernel does
for it on its CPU, up to the far end's interface.  There receive packet steering hands each packet
over to the other CPU, or the far end's whole TCP would be charged to who sends.  What the wire
brings is taken from it on the CPU of the sender (XDP and its copy; bridge and tap), and charged to
no back-end.  The CPU time of the whole machine has all of it.

Contenders: `daemon` as it is; `lane-off`, `offloads-off` with options; `testpmd` in the
configuration that is best for it; `kernel`, a tap on a bridge with relay.c as the worker of
vhost-net.
"""

import re
import subprocess
import time

import procfs
from datapath import EVIDENCE_SECONDS
from laboratory import BACKEND_CPU, FRONTEND_CPU
from programs import Failure, Program
from wire import start_back_end

GUEST, FAR = "10.77.0.2", "10.77.0.1"
GUEST_MAC = "02:00:00:00:00:02"
STEERING = "/sys/class/net/peer0/queues/rx-0/rps_cpus"
# The last number is the most that is under way: fewer segments than the shortest queue takes.  Those
# are 1000 packets that wait for a CPU at the far end, and 256 at an end of a veth with XDP or GRO.
RECEIVE_MEMORY = {"transmit": "4096 131072 1048576", "receive": "4096 131072 360448"}
# No fewer buffers than that.
QUEUE_SIZE = 512
# A tap drops what its queue has no room for.
TAP_QUEUE = 4096
# How the daemon is told, and the words of its help that show that it can be.
OPTIONS = {
    ("transmit", "daemon"): [], ("receive", "daemon"): [],
    ("transmit", "lane-off"): ["--bulk-lane=off"],
    ("transmit", "offloads-off"): ["--disable-offload=csum,tso,uso"],
    ("receive", "offloads-off"): ["--disable-offload=gro"],
}


class Absent(Exception):
    """A contender that there is not here; the text says why."""


def measure(lab, row, contender):
    if not lab.bench_driver:
        raise Failure("no bench-driver: bench.sh builds it, BENCH_DRIVER names another one")
    with lab.session() as session, Wire(lab, row) as wire:
        back_end = start(session, row, contender, wire)
        guest = Guest(session, row, contender)
        stream(session, row, guest)
        wait_for_stream(row)
        time.sleep(lab.warm_up)
        machine = []

        def count():
            machine.append(procfs.machine_seconds()[0])
            return moved(row)

        window = session.window([back_end], count)
        result = figures(window, machine[1] - machine[0])
        result.update(busy(session, row, contender, back_end))
        result["negotiated"] = guest.features
        return result


def figures(window, machine_seconds):
    gigabytes = window.count / 1e9
    if gigabytes <= 0:
        raise Failure("nothing arrived")
    cpu = window.cpu + window.deferred
    own = window.figures()
    return {
        "seconds": window.seconds, "bytes": window.count,
        "gbit_per_second": 8 * gigabytes / window.seconds,
        "gbit_per_cpu": 8 * gigabytes / cpu if cpu else None,
        "gbit_per_machine_cpu": 8 * gigabytes / machine_seconds if machine_seconds else None,
        "cpu_per_gb": cpu / gigabytes, "machine_per_gb": machine_seconds / gigabytes,
        **{name: own[name] for name in ("cpu_share", "other_processes_cpus", "stolen_cpus")},
    }


# --- Back-ends -----------------------------------------------------------------------------------


def start(session, row, contender, wire):
    if contender == "kernel":
        return wire.start_relay(session)
    if contender == "testpmd":
        # With `io`, checksum and segments are the guest's.  The checksum engine with GSO sends
        # segments with wrong checksums, for librte_gso leaves those to a NIC and AF_XDP has none;
        # with GRO it merges nothing, for net_af_xdp does not say which packets are TCP.
        return start_back_end(session, row, "testpmd")
    options = OPTIONS[row.case, contender]
    for option in options:
        if not knows(help_of(session.lab), option):
            raise Absent(f"this build of the daemon has no {option}")
    return session.daemon(f"--interface={row.interface}", "--dedicated", *options)


def help_of(lab):
    if "help" not in lab.notes:
        lab.notes["help"] = subprocess.run([lab.backend, "--help"], check=False, text=True,
                                           capture_output=True).stdout
    return lab.notes["help"]


def knows(text, option):
    """Whether a help has an option, with each of its values."""
    name, _, values = option.partition("=")
    found = re.search(rf"^ +{re.escape(name)}\b.*?(?=^ +--|\Z)", text, re.M | re.S)
    return bool(found) and all(
        re.search(rf"\b{re.escape(value)}\b", found.group(0)) for value in values.split(","))


class Wire:
    """The veth pair as TCP rows have it, and the bridge of the kernel's way."""

    def __init__(self, lab, row):
        self.lab, self.row, self.bridged = lab, row, False

    def __enter__(self):
        set_steering(1 << FRONTEND_CPU)
        with open("/proc/sys/net/ipv4/tcp_rmem", "w", encoding="utf-8") as file:
            file.write(RECEIVE_MEMORY[self.row.case])
        return self

    def __exit__(self, *_):
        set_steering(0)
        if self.bridged:
            self.near("ip", "link", "delete", "bridge0")
            self.near("ethtool", "-K", "nic0", "gro", "off")

    def near(self, *command):
        self.lab.in_near(*command)

    def start_relay(self, session):
        if not self.lab.relay:
            raise Absent("relay.c is not compiled: bench.sh does that")
        try:
            self.near("ip", "link", "add", "bridge0", "type", "bridge")
        except subprocess.CalledProcessError as failure:
            raise Absent(f"no bridge on this kernel: {failure.stderr.strip()}") from None
        self.bridged = True
        relay = session.add(Program, "relay", [
            "taskset", "-c", str(BACKEND_CPU), self.lab.relay, session.socket, "host0"], near=True)
        relay.wait_until("it listened", lambda: procfs.listens(relay.pid, session.socket))
        # What a NIC's driver would do as a matter of course.
        self.near("ethtool", "-K", "nic0", "gro", "on")
        self.near("ip", "link", "set", "host0", "txqueuelen", str(TAP_QUEUE))
        for name in ("nic0", "host0", "bridge0"):
            if name != "bridge0":
                self.near("ip", "link", "set", name, "master", "bridge0")
            self.near("ip", "link", "set", name, "up")
        return relay


def set_steering(mask):
    with open(STEERING, "w", encoding="utf-8") as file:
        file.write(f"{mask:x}")


# --- The guest and the stream --------------------------------------------------------------------


class Guest:
    """bench-driver tap, in a network namespace of its own."""

    def __init__(self, session, row, contender):
        options = ["--packed"] if row.ring == "packed" else []
        if contender == "testpmd":
            # Its net_vhost would sum in software, for which it pays and the guest does not.
            options.append("--without=csum,guest-csum")
        self.program = session.add(Program, "guest", [
            "unshare", "--net", "taskset", "-c", str(FRONTEND_CPU), session.lab.bench_driver, "tap",
            f"--socket={session.socket}", f"--queue-size={QUEUE_SIZE}", *options], near=False)
        self.program.wait_until("it was ready", lambda: "ready: " in self.program.output)
        self.features = self.program.output.split("ready: tap0: ")[-1].strip()
        self.run("ip", "link", "set", "tap0", "address", GUEST_MAC, "txqueuelen", str(TAP_QUEUE))
        self.run("ip", "address", "add", f"{GUEST}/24", "dev", "tap0")
        self.run("sysctl", "-qw", f"net.ipv4.tcp_rmem={RECEIVE_MEMORY[row.case]}")
        self.run("ip", "link", "set", "tap0", "up")

    def command(self, *command):
        return ["nsenter", f"--net=/proc/{self.program.pid}/ns/net", *command]

    def run(self, *command):
        subprocess.run(self.command(*command), check=True, capture_output=True, text=True)


def stream(session, row, guest):
    pinned = ["taskset", "-c", str(FRONTEND_CPU), "iperf3"]
    server = session.add(Program, "server", [*pinned, "-s", "-1", "--forceflush"], near=False)
    server.wait_until("it listened", lambda: "listening" in server.output)
    client = [*pinned, "-c", FAR, "-t", "3600", "-C", "cubic", "--connect-timeout", "5000"]
    session.add(Program, "client", guest.command(
        *client, *(["-R"] if row.case == "receive" else [])), near=False)


def moved(row):
    """Bytes of payload so far, seen by the far end: what it got, or what the guest acknowledged."""
    # Those that earlier streams left behind are established no more.
    text = subprocess.run(["ss", "-tinHO", "state", "established"], check=True,
                          capture_output=True, text=True).stdout
    return payload(text, row.case)


def payload(text, case):
    word = "bytes_received" if case == "transmit" else "bytes_acked"
    return sum(int(count) for count in re.findall(rf"\b{word}:(\d+)", text))


def wait_for_stream(row, seconds=10):
    end = time.monotonic() + seconds
    while moved(row) < 1 << 20:
        if time.monotonic() > end:
            raise Failure(f"no stream within {seconds} s: {moved(row)} bytes")
        time.sleep(0.02)


def busy(session, row, contender, back_end):
    """Gbit/s per CPU without the time of idle polling, in a window of its own."""
    if contender == "testpmd":
        back_end.record("core-cycles")
        time.sleep(0.05)
        back_end.clear()
    idle = idle_seconds(contender, back_end)
    window = session.window([back_end], lambda: moved(row), EVIDENCE_SECONDS)
    if contender == "testpmd":
        seconds = back_end.forward_statistics().get("busy_nanoseconds", 0) / 1e9
    else:
        seconds = (window.cpu - (idle_seconds(contender, back_end) - idle)) + window.deferred
    return {"gbit_per_busy_cpu": 8 * window.count / 1e9 / seconds} if seconds > 0 else {}


def idle_seconds(contender, back_end):
    """What the daemon counts of turns without packets; the others do not poll, or tell otherwise."""
    if contender in ("testpmd", "kernel"):
        return 0.0
    return sum(values.get("idle_ns", 0) for name, values in back_end.counters().items()
               if name.startswith("worker")) / 1e9
