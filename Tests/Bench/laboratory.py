"""What measurements are made with: the two CPUs, the namespaces, and sessions of programs."""

import os
import shutil
import subprocess
import time

import procfs
import testpmd
from programs import Daemon, Failure, Program

# The back-end's data path has one CPU, the driver (with the sender of a receive row) the other.
BACKEND_CPU, FRONTEND_CPU = 0, 1
# An ifb in the near namespace; it has no native XDP.
SINK = "sink0"
FAR = "/sys/class/net/{}/statistics/{}"


class Laboratory:
    def __init__(self, arguments, folder):
        self.folder = folder
        self.near = arguments.near
        self.backend = arguments.backend
        self.floor = arguments.floor
        self.wake = arguments.wake
        self.relay = arguments.relay
        self.bench_driver = arguments.bench_driver
        self.reference_program = arguments.reference_program
        self.seconds = arguments.seconds
        self.warm_up = arguments.warm_up
        self.idle_seconds = arguments.idle_seconds
        self.reference_options = arguments.testpmd_options.split()
        self.pages = testpmd.HUGE_PAGES if arguments.huge_pages else testpmd.NORMAL_PAGES
        self.prefix = os.path.basename(folder)
        self.softirq = procfs.softirq_thread(BACKEND_CPU)
        self.other_softirq = procfs.softirq_thread(FRONTEND_CPU)
        # What rows learn for later rows of the same run, such as the rate that a quarter is of.
        self.notes = {}

    def session(self):
        return Session(self)

    def reference_device(self, interface, number=0):
        """testpmd's port on an interface.

        Without busy polling: a veth has no NAPI context of its own to poll, the system calls are
        for nothing, and it is faster without them.
        """
        device = f"net_af_xdp{number},iface={interface},busy_budget=0"
        if interface == SINK:
            if not self.reference_program:
                raise Failure("reference.bpf.c is not compiled: bench.sh does that, with clang")
            device += f",xdp_prog={self.reference_program}"
        return device

    def near_counter(self, interface, counter):
        return int(self.in_near("cat", FAR.format(interface, counter)))

    def in_near(self, *command):
        return subprocess.run(["ip", "netns", "exec", self.near, *command], check=True,
                              capture_output=True, text=True).stdout


def far_counter(interface, counter):
    return int(procfs.read(FAR.format(interface, counter)))


class Session:
    """The programs of one measurement; all end with it, in the opposite order."""

    def __init__(self, lab):
        self.lab = lab
        self.programs = []
        self.socket = os.path.join(lab.folder, "sock")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for program in reversed(self.programs):
            program.end()
        self.detach_programs()
        for name in os.listdir(self.lab.folder):
            if name.startswith("sock"):
                os.unlink(os.path.join(self.lab.folder, name))
        if os.path.isdir("/run/dpdk"):
            for name in os.listdir("/run/dpdk"):
                if name.startswith(self.lab.prefix):
                    shutil.rmtree(os.path.join("/run/dpdk", name), ignore_errors=True)

    def detach_programs(self):
        """A testpmd that is ended leaves its XDP program behind, and the daemon respects it."""
        if not any(isinstance(program, testpmd.Testpmd) for program in self.programs):
            return
        links = subprocess.run(["ip", "-n", self.lab.near, "-o", "link", "show"], check=False,
                               capture_output=True, text=True).stdout
        for line in links.splitlines():
            if "prog/xdp" in line:
                name = line.split(": ")[1].split("@")[0]
                subprocess.run(
                    ["ip", "-n", self.lab.near, "link", "set", "dev", name, "xdp", "off"],
                    check=False)

    def add(self, kind, name, command, near):
        if near:
            # `ip netns exec` replaces itself by the command: the process is the command's own.
            command = ["ip", "netns", "exec", self.lab.near, *command]
        program = kind(name, command, self.lab.folder)
        self.programs.append(program)
        return program

    def daemon(self, *options, number=0):
        socket = self.socket_of(number)
        daemon = self.add(Daemon, f"daemon{number}", [
            self.lab.backend, f"--socket-path={socket}", f"--cpus={BACKEND_CPU}", *options],
            near=True)
        daemon.wait_until_ready(socket)
        return daemon

    def reference(self, devices, options, megabytes=256, pairs=1,
                  queues=1):
        """testpmd with net_vhost, and more devices, as the back-end."""
        hosts = [f"net_vhost{i},iface={self.socket_of(i)},queues={queues}" for i in range(pairs)]
        command = testpmd.command_line(
            BACKEND_CPU, self.lab.prefix + "b", interleaved(hosts, devices),
            [*options, *self.lab.reference_options],
            # Each port's fill ring keeps 4096 of them.
            self.lab.pages, megabytes, mbufs=8192 * (1 + pairs))
        back_end = self.add(testpmd.Testpmd, "testpmd", command, near=True)
        back_end.wait_until_ready()
        for i in range(pairs):
            path = self.socket_of(i)
            back_end.wait_until("it listened",
                                lambda path=path: procfs.listens(back_end.pid, path))
        return back_end

    def front_end(self, mode, device, options=(), megabytes=256, pairs=1):
        """testpmd with net_virtio_user as the driver."""
        devices = [f"net_virtio_user{i},path={self.socket_of(i)},{device}" for i in range(pairs)]
        command = testpmd.command_line(
            FRONTEND_CPU, self.lab.prefix + "f", devices,
            [f"--forward-mode={mode}", *options], self.lab.pages, megabytes)
        driver = self.add(testpmd.Testpmd, "driver", command, near=False)
        driver.wait_until_ready()
        return driver

    def floor(self, *arguments, near=False, cpu=FRONTEND_CPU, name="floor"):
        """Tests/Bench/floor.c."""
        if not self.lab.floor:
            raise Failure("floor.c is not compiled: bench.sh does that")
        return self.add(Program, name, ["taskset", "-c", str(cpu), self.lab.floor,
                                        *[str(argument) for argument in arguments]], near=near)

    def socket_of(self, number):
        return self.socket + (str(number) if number else "")

    def window(self, back_ends, count, seconds=None):
        """Lets `seconds` pass; returns what was counted and what it cost the back-ends."""
        begin = self.sample(back_ends, count)
        time.sleep(self.lab.seconds if seconds is None else seconds)
        self.check_alive()
        end = self.sample(back_ends, count)
        return Window(*(after - before for before, after in zip(begin, end)))

    def check_alive(self):
        for program in self.programs:
            if program.process.poll() is not None:
                raise Failure(f"{program.name} ended by itself\n{program.output[-2000:]}")

    def sample(self, back_ends, count):
        counted, now = count(), time.monotonic()
        cpu = sum(program.cpu_seconds() for program in back_ends)
        everybody = sum(program.cpu_seconds() for program in self.programs)
        if self.lab.other_softirq:
            everybody += procfs.cpu_nanoseconds(self.lab.other_softirq) / 1e9
        times = [procfs.user_and_system_seconds(program.pid) for program in back_ends]
        busy, stolen = procfs.machine_seconds()
        deferred = procfs.cpu_nanoseconds(self.lab.softirq) / 1e9 if self.lab.softirq else 0.0
        return (counted, now, cpu, sum(t[0] for t in times), sum(t[1] for t in times), deferred,
                busy - everybody - deferred, stolen)


def require_packets(result, back_end):
    if result["packets"] <= 0:
        raise Failure(f"nothing arrived: {back_end.name} says\n{back_end.output[-2000:]}")


class Window:
    """Differences between two samples."""

    def __init__(self, count, seconds, cpu, user, system, deferred, others, stolen):
        self.count, self.seconds, self.cpu, self.deferred = count, seconds, cpu, deferred
        self.user_share = user / (user + system) if user + system else 1.0
        self.others, self.stolen = others, stolen

    def figures(self):
        """For a row's result.  What the kernel thread of the back-end's CPU did is system time."""
        result = {
            "seconds": self.seconds, "packets": self.count,
            "packets_per_second": self.count / self.seconds,
            "cpu_share": (self.cpu + self.deferred) / self.seconds,
            "other_processes_cpus": max(0.0, self.others / self.seconds),
            "stolen_cpus": max(0.0, self.stolen / self.seconds),
        }
        if self.count > 0:
            per_packet = 1e9 / self.count
            user = self.cpu * self.user_share
            result["cpu_ns"] = (self.cpu + self.deferred) * per_packet
            result["user_ns"] = user * per_packet
            result["system_ns"] = (self.cpu - user + self.deferred) * per_packet
        return result


def interleaved(first, second):
    """One of each in turn: testpmd forwards between neighbours."""
    pairs = [item for pair in zip(first, second) for item in pair]
    return pairs + first[len(second):]


def frame_memory_sizes(queues=1):
    """Sizes that the daemon's mappings of frame memory may have: see FrameMemory.swift.

    2304 receive and 1536 transmit frames per queue, of 2048 or 4096 bytes, in normal or huge pages.
    """
    sizes = set()
    for chunk in (2048, 4096):
        normal = (2304 + 1536) * chunk * queues
        sizes |= {normal, -(-normal // (2 << 20)) * (2 << 20)}
    return sizes
