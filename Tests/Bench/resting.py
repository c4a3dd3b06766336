"""What a back-end costs without packets: idle, at its start, and in memory."""

import time

import procfs
import testpmd
from laboratory import FRONTEND_CPU, far_counter, frame_memory_sizes
from programs import Daemon, Failure
from testpmd import device_arguments
from wire import start_back_end


def idle(lab, row, contender):
    """CPU time and wake-ups with a guest connected that sends and gets nothing."""
    with lab.session() as session:
        back_end = start_connected(session, row, contender)[0]
        time.sleep(1)
        switches = procfs.context_switches(back_end.pid)
        window = session.window([back_end], lambda: 0, lab.idle_seconds)
        result = window.figures()
        result["wakeups_per_second"] = procfs.wakeups(
            switches, procfs.context_switches(back_end.pid)) / result["seconds"]
        # Without what the kernel did on this CPU for others.
        result["cpu_seconds"] = window.cpu
        result["cpu_share"] = window.cpu / window.seconds
        result["idle_cpu_percent"] = 100 * window.cpu / window.seconds
        return result


def memory(lab, row, contender):
    """Resident memory with a guest connected, divided by what it is for."""
    with lab.session() as session:
        back_end, driver = start_connected(session, row, contender)
        driver.start()
        time.sleep(lab.warm_up)
        sizes = frame_memory_sizes() if contender == "daemon" else ()
        session.check_alive()
        parts = procfs.memory_of(back_end.pid, driver.pid, sizes)
        return {f"{part}_mib": count / (1 << 20) for part, count in parts.items()}


def start_connected(session, row, contender):
    back_end = start_back_end(session, with_interface(row), contender)
    driver = session.front_end("txonly", device_arguments("split", True))
    return back_end, driver


def with_interface(row):
    return row if row.interface else type(row)(**{**row.__dict__, "interface": "nic0"})


def start(lab, row, contender):
    """From exec to a socket that is listened at; and from exec of a back-end that takes over a
    guest which is running, to its first packet at the far end."""
    with lab.session() as session:
        begin = time.monotonic()
        if contender == "daemon":
            back_end = session.add(Daemon, "daemon", daemon_command(lab, session), near=True)
        else:
            back_end = session.add(testpmd.Testpmd, "testpmd",
                                   reference_command(lab, session), near=True)
        back_end.wait_until("it listened", lambda: procfs.listens(back_end.pid, session.socket),
                            pause=0.0002)
        ready = time.monotonic() - begin
    return {"ready_ms": ready * 1000, "first_packet_ms": first_packet(lab, contender) * 1000}


def first_packet(lab, contender):
    """The driver is the server of the socket, and stays while one back-end follows another."""
    with lab.session() as session:
        device = (f"net_virtio_user0,path={session.socket},server=1,"
                  f"{device_arguments('split', True)}")
        driver = session.add(testpmd.Testpmd, "driver", testpmd.command_line(
            FRONTEND_CPU, lab.prefix + "f", [device], ["--forward-mode=txonly"], lab.pages), False)
        driver.wait_until("it listened", lambda: procfs.listens(driver.pid, session.socket))
        predecessor = connect(lab, session, contender, "predecessor")
        driver.wait_until_ready()
        driver.start()
        arrives(predecessor, 0)
        predecessor.end()
        session.detach_programs()
        time.sleep(0.5)
        before, begin = far_counter("peer0", "rx_packets"), time.monotonic()
        arrives(connect(lab, session, contender, "successor"), before)
        return time.monotonic() - begin


def arrives(back_end, before):
    back_end.wait_until("a packet arrived", lambda: far_counter("peer0", "rx_packets") > before,
                        pause=0.0002)


def connect(lab, session, contender, name):
    if contender == "daemon":
        return session.add(Daemon, name, daemon_command(lab, session, "--client"), near=True)
    return session.add(testpmd.Testpmd, name, reference_command(lab, session, ",client=1", name),
                       near=True)


def daemon_command(lab, session, *options):
    return [lab.backend, f"--socket-path={session.socket}", "--cpus=0", "--interface=nic0",
            "--dedicated", *options]


def reference_command(lab, session, arguments="", name=""):
    return testpmd.command_line(
        0, lab.prefix + "b" + name,
        [f"net_vhost0,iface={session.socket}{arguments}", lab.reference_device("nic0")],
        ["--forward-mode=io", "--auto-start"], lab.pages)


def measure(lab, row, contender):
    kinds = {"idle": idle, "memory": memory, "start": start}
    if row.case not in kinds:
        raise Failure(f"{row.name}: no such case")
    return kinds[row.case](lab, row, contender)
