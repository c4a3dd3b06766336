"""The two guests of the soak test: how each is loaded, awaited and verified."""

import os
import subprocess

from soak_processes import CLIENT, ECHO, SERVER, Daemon, Failure, Process, shell, wait_for

# Seconds within which packets must flow again.
DEADLINE = 20


class Guest:
    def __init__(self, arguments):
        self.arguments = arguments
        self.folder = arguments.folder
        self.near, self.far, self.guest = (
            f"{arguments.name}-{end}" for end in ("near", "far", "guest"))
        self.load = None
        self.files = 0

    def file(self, name):
        self.files += 1
        return os.path.join(self.folder, f"{type(self).__name__}-{name}-{self.files}")

    def numbers(self):
        """What the load has written of itself."""
        try:
            with open(self.status) as status:
                return [int(word) for word in status.read().split()]
        except FileNotFoundError:
            return []

    def stop_load(self):
        if self.load:
            self.load.end()
            self.load = None

    def sample(self):
        return self.daemon.sample()


class Frames(Guest):
    """DPDK's driver is the server of the socket, so that the daemon may come and go."""

    interface, peer = "nic0", "peer0"
    # Frames of a verification.
    count = 2000

    def __init__(self, arguments):
        super().__init__(arguments)
        self.socket = os.path.join(self.folder, "frames.sock")
        self.exact = 0
        self.start_driver()
        self.daemon = Daemon(arguments, [
            "--client", f"--socket-path={self.socket}", "--interface=nic0", "--dedicated"])
        self.await_driver()

    def start_driver(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        cpus = max(1, (os.cpu_count() or 2) - 1)
        self.driver = Process(self.far, [
            "stdbuf", "-oL", "dpdk-testpmd", f"--lcores=0@(0-{cpus}),1@(0-{cpus})", "--no-huge", "-m",
            "256", "--no-pci", f"--file-prefix={self.arguments.name}-{self.files}",
            f"--vdev=net_virtio_user0,path={self.socket},server=1,queue_size=1024", "--", "-i",
            "--forward-mode=io", "--total-num-mbufs=8192", "--rxd=1024", "--txd=1024",
        ], self.folder, stdin=subprocess.PIPE)
        self.files += 1

    def await_driver(self):
        self.driver.await_text("testpmd> ", 30)
        self.driver.child.stdin.write(b"start\n")
        self.driver.child.stdin.flush()

    def renew(self):
        self.stop_load()
        self.driver.kill()
        self.start_driver()
        self.await_driver()

    def start_load(self):
        self.status = self.file("load")
        self.load = Process(self.far, ["python3", "-c", ECHO, self.status, "1500", "0"], self.folder)
        wait_for(DEADLINE, "frames flow", lambda: self.last() > 0)

    def last(self):
        numbers = self.numbers()
        return numbers[2] if len(numbers) == 3 else 0

    def await_flow(self):
        if not self.load:
            self.start_load()
            self.stop_load()
            return
        # Those that are on their way, and those that the load has not written of yet, do not count: what
        # is due in 5 ms, and in the 20 ms that it makes good after it has stood still.
        sent = self.numbers()[0] + 40
        wait_for(DEADLINE, "frames flow", lambda: self.last() > sent)

    def check_load(self):
        self.await_flow()

    def verify(self):
        before = self.daemon.losses()
        missed = self.missed()
        process = Process(self.far, [
            "python3", "-c", ECHO, self.file("exchange"), "2000", str(self.count)], self.folder)
        process.child.wait()
        sent, back = map(int, process.output().split())
        if sent != back:
            losses = {name: count - before.get(name, 0)
                      for name, count in self.daemon.losses().items()}
            losses = {name: count for name, count in losses.items() if count}
            raise Failure(f"{sent} frames sent, {back} came back; the daemon counted {losses}, the "
                          f"driver dropped {self.missed() - missed}; {self.daemon.process.output()}")
        self.exact += sent

    def missed(self):
        """Frames that the driver dropped because its transmit ring was full."""
        before = len(self.driver.output())
        self.driver.child.stdin.write(b"show fwd stats all\n")
        self.driver.child.stdin.flush()
        return int(self.driver.await_match(r"TX-dropped: *(\d+) *TX-total", after=before)[1])

    def total(self):
        return f"frames: {self.exact} of {self.exact} came back outside of faults"

    def make_link(self):
        shell(f"""
            ip -n {self.near} link add nic0 type veth peer name peer0 netns {self.far}
            ip netns exec {self.far} sysctl -qw net.ipv6.conf.peer0.disable_ipv6=1
            ip netns exec {self.far} ethtool -K peer0 tx off >/dev/null
            ip -n {self.near} link set nic0 up
            ip -n {self.far} link set peer0 up""")

    def end(self):
        self.stop_load()
        self.driver.kill()
        self.daemon.end()


class Stream(Guest):
    """The kernel's network stack behind `bench-driver tap`."""

    interface, peer = "nic1", "peer1"
    # Bytes of a verification, both ways together.
    bytes = 4 << 20

    def __init__(self, arguments):
        super().__init__(arguments)
        self.socket = os.path.join(self.folder, "stream.sock")
        self.exact = 0
        self.daemon = Daemon(arguments, [
            f"--socket-path={self.socket}", "--interface=nic1", "--dedicated"])
        self.daemon.await_ready()
        self.server = Process(self.far, ["python3", "-c", SERVER], self.folder)
        self.server.await_text("listening")
        self.start_driver()

    def start_driver(self):
        self.driver = Process(self.guest, [
            self.arguments.bench_driver, "tap", f"--socket={self.socket}", "--connect-timeout=20"],
            self.folder)
        self.driver.await_text("ready:")
        # A guest that comes back has the address that it had: the far end may wait for it.
        shell(f"ip -n {self.guest} link set tap0 address 02:00:00:00:00:02 up && "
              f"ip -n {self.guest} address add 10.78.0.2/24 dev tap0")

    def renew(self):
        self.stop_load()
        self.driver.kill()
        self.start_driver()

    def start_load(self):
        self.status = self.file("load")
        self.load = Process(self.guest, ["python3", "-c", CLIENT, self.status, "0"], self.folder)
        self.await_bytes()

    def await_bytes(self):
        before = sum(self.numbers())
        wait_for(DEADLINE, "the stream flows", lambda: sum(self.numbers()) > before or self.broken())

    def broken(self):
        if self.load.runs():
            return False
        raise Failure(f"the stream ended: {self.load.output()[-300:]}")

    def await_flow(self):
        if self.load and self.load.runs() and self.driver.runs():
            self.await_bytes()
        else:
            self.stop_load()
            self.start_load()

    def check_load(self):
        self.await_bytes()

    def verify(self):
        process = Process(self.guest, [
            "python3", "-c", CLIENT, self.file("verify"), str(self.bytes)], self.folder)
        if process.child.wait():
            raise Failure(f"the stream is damaged: {process.output()[-300:]}")
        self.exact += self.bytes

    def total(self):
        return (f"stream: {self.exact >> 20} MiB with the right digests outside of faults, more during "
                f"them; daemon started {self.daemon.starts} time(s)")

    def churn(self, *options):
        """Another front-end in place of the driver."""
        self.stop_load()
        self.driver.kill()
        result = subprocess.run([
            "ip", "netns", "exec", self.guest, self.arguments.bench_driver, "churn",
            f"--socket={self.socket}", *options], capture_output=True, text=True, check=False)
        if result.returncode:
            raise Failure(f"churn: {result.stderr.strip()}")
        self.start_driver()

    def end(self):
        self.stop_load()
        self.driver.kill()
        self.server.kill()
        self.daemon.end()
