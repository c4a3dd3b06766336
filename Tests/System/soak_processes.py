"""Processes of the soak test, and the traffic of the far end."""

import os
import re
import signal
import subprocess
import threading
import time


class Failure(Exception):
    """What the soak test looks for."""


def wait_for(seconds, what, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"not within {seconds} s: {what}")
        time.sleep(0.01)


def shell(script):
    result = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=False)
    if result.returncode:
        raise Failure(f"{script}: {result.stderr.strip()}")
    return result.stdout


class Process:
    """A program in a network namespace, with its output in a file."""

    number = 0

    def __init__(self, namespace, command, folder, **options):
        Process.number += 1
        name = os.path.basename(command[0])
        self.name = name
        self.log = os.path.join(folder, f"{Process.number}-{name}.log")
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(["ip", "netns", "exec", namespace, *command], stdout=log,
                                          stderr=subprocess.STDOUT, start_new_session=True, **options)

    @property
    def pid(self):
        # ip replaces itself by the command.
        return self.child.pid

    def output(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def runs(self):
        return self.child.poll() is None

    def await_text(self, text, seconds=20, after=0):
        self.await_match(re.escape(text), seconds, after)

    def await_match(self, pattern, seconds=20, after=0):
        """Waits for output that matches, and returns the match."""
        def found():
            nonlocal match
            # First of all: it may print and end between two looks.
            runs = self.runs()
            match = re.search(pattern, self.output()[after:])
            if not match and not runs:
                raise Failure(f"{self.name} ended: {self.output()[-500:]}")
            return match
        match = None
        wait_for(seconds, f"{self.name} prints '{pattern}'", found)
        return match

    def send(self, number):
        if self.runs():
            os.kill(self.pid, number)

    def kill(self):
        self.send(signal.SIGKILL)
        self.child.wait()

    def end(self):
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            self.child.wait(2)
        except subprocess.TimeoutExpired:
            self.kill()
        if self.child.stdin:
            self.child.stdin.close()


class Daemon:
    """The daemon, started anew 100 ms after it has ended, as its unit does."""

    def __init__(self, arguments, options):
        self.command = [arguments.backend, *options]
        self.folder = arguments.folder
        self.namespace = arguments.name + "-near"
        self.starts = 0
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.start()
        self.thread = threading.Thread(target=self.supervise, daemon=True)
        self.thread.start()

    def start(self):
        with self.lock:
            self.newest = Process(self.namespace, self.command, self.folder)
        self.starts += 1

    @property
    def process(self):
        """Never the one before, once packets may flow through its successor."""
        with self.lock:
            return self.newest

    def supervise(self):
        while not self.ended.wait(0.05):
            if not self.process.runs():
                time.sleep(0.1)
                if not self.ended.is_set():
                    self.start()

    def end(self):
        self.ended.set()
        self.thread.join()
        self.process.end()

    def await_ready(self):
        wait_for(20, "the daemon is ready", lambda: "ready:" in self.process.output())

    def sample(self):
        """What it holds."""
        folder = f"/proc/{self.process.pid}"
        with open(folder + "/status") as status:
            own = int(re.search(r"RssAnon:\s+(\d+)", status.read())[1])
        with open(folder + "/maps") as maps:
            mappings = len(maps.readlines())
        return {"descriptors": len(os.listdir(folder + "/fd")), "mappings": mappings,
                "threads": len(os.listdir(folder + "/task")), "own_kib": own,
                "frames_in_use": self.counter("frames_in_use")}

    def counter(self, name):
        return sum(map(int, re.findall(rf"\b{name} (\d+)", self.counters())))

    def counters(self):
        process = self.process
        before = len(process.output())
        process.send(signal.SIGUSR1)
        # Each line is a write of its own: the report is there when its last line is.
        process.await_match(r"counters: front-ends: .*\n", after=before)
        return process.output()[before:]

    def losses(self):
        """Packets that it knows to be lost, by counter."""
        names = r"\b(dropped_\w+|rx_dropped|rx_ring_full|rx_too_long|device_refused|link_down) (\d+)"
        losses = {}
        for name, count in re.findall(names, self.counters()):
            losses[name] = losses.get(name, 0) + int(count)
        return losses


# Sends numbered frames, and counts those that come back; of a number of them only, if it is not 0. Of these
# no more are under way than any ring on it holds: whoever stands still for a second on the way loses none.
ECHO = r"""
import os, select, socket, struct, sys, time
name, rate, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
status = os.open(name, os.O_CREAT | os.O_WRONLY, 0o600)
mark = os.urandom(8)
head = b'\xff' * 6 + b'\x02\0\0\0\0\x77' + b'\x88\xb6' + mark
port, sent, back, last, written = None, 0, 0, 0, 0
due = heard = time.monotonic()
while True:
    now = time.monotonic()
    if port is None:
        port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b6))
        port.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        port.setblocking(False)
        try:
            port.bind(('peer0', 0x88b6))
        except OSError:
            port.close()
            port = None
            time.sleep(0.005)
            continue
    try:
        due = max(due, now - 0.02)
        while due <= now and not (most and (sent >= most or sent - back >= 128)):
            port.send(head + struct.pack('!Q', sent + 1) + bytes((sent * 7) % 1400))
            sent += 1
            due += 1 / rate
            heard = now
        for _ in range(1000):
            data, address = port.recvfrom(2048)
            if address[2] != socket.PACKET_OUTGOING and data[14:22] == mark:
                back += 1
                last = max(last, struct.unpack('!Q', data[22:30])[0])
                heard = time.monotonic()
    except BlockingIOError:
        pass
    except OSError:
        port.close()
        port = None
    if now - written > 0.005:
        os.pwrite(status, b'%d %d %d ' % (sent, back, last), 0)
        written = now
    if most and (back >= most or now - heard > 10):
        print(sent, back, flush=True)
        sys.exit()
    if port is not None:
        select.select([port], [], [], max(0, min(due - time.monotonic(), 0.005)))
"""

# Blocks with their digests, there and back. The client writes how many bytes were right.
SERVER = r"""
import hashlib, os, socket, sys, threading
def serve(peer):
    stream = peer.makefile('rwb')
    while True:
        block, digest = stream.read(1 << 18), stream.read(32)
        if len(digest) < 32:
            return
        answer = os.urandom(1 << 18)
        right = hashlib.sha256(block).digest() == digest
        stream.write(bytes([right]) + answer + hashlib.sha256(answer).digest())
        stream.flush()
def run(peer):
    try:
        serve(peer)
    except OSError:
        pass
listener = socket.create_server(('10.78.0.1', 5000))
print('listening', flush=True)
while True:
    threading.Thread(target=run, args=(listener.accept()[0],), daemon=True).start()
"""

CLIENT = r"""
import hashlib, os, socket, sys, time
status = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600)
most = int(sys.argv[2])
end = time.monotonic() + 15
while True:
    try:
        peer = socket.create_connection(('10.78.0.1', 5000), timeout=1)
        break
    except OSError:
        if time.monotonic() > end:
            sys.exit('no connection')
peer.settimeout(20)
stream = peer.makefile('rwb')
done = 0
while most == 0 or done < most:
    block = os.urandom(1 << 18)
    stream.write(block + hashlib.sha256(block).digest())
    stream.flush()
    right, answer, digest = stream.read(1), stream.read(1 << 18), stream.read(32)
    if right != b'\1' or hashlib.sha256(answer).digest() != digest:
        sys.exit('a block is damaged')
    done += 2 << 18
    os.pwrite(status, b'%d ' % done, 0)
"""
