"""Processes that a measurement starts: their output in a file, their input open for commands."""

import os
import signal
import subprocess
import time

import procfs


class Failure(Exception):
    """A measurement that cannot be made; the text says why."""


class Program:
    def __init__(self, name, arguments, folder):
        self.name = name
        self.log = os.path.join(folder, name + ".log")
        with open(self.log, "wb") as output:
            # A session of its own: an interrupt at the terminal is for the benchmark, which ends
            # its programs itself.
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True)
        self.pid = self.process.pid

    @property
    def output(self):
        return procfs.read(self.log)

    def output_from(self, offset):
        with open(self.log, "rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def wait_until(self, what, condition, seconds=20, pause=0.005):
        end = time.monotonic() + seconds
        while not holds(condition):
            if self.process.poll() is not None or time.monotonic() > end:
                state = "ended" if self.process.poll() is not None else "is too slow"
                raise Failure(f"{self.name} {state} before {what}\n{self.output[-2000:]}")
            time.sleep(pause)

    def wait_for_end(self, seconds):
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} does not end\n{self.output[-2000:]}") from None
        if status != 0:
            raise Failure(f"{self.name} ended with status {status}\n{self.output[-2000:]}")
        return self.output

    def command(self, line, answer):
        """Gives it a line of input; returns what it prints, up to and with `answer`."""
        before = os.path.getsize(self.log)
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        self.wait_until(f"it answered '{line}'", lambda: answer in self.output_from(before))
        return self.output_from(before)

    def cpu_seconds(self):
        return procfs.cpu_nanoseconds(self.pid) / 1e9

    def end(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.pid, number)
            try:
                self.process.wait(3)
                break
            except subprocess.TimeoutExpired:
                continue
        self.process.stdin.close()


def holds(condition):
    try:
        return condition()
    except OSError:
        return False  # what it looks at is not there, or no longer: the process has ended


class Daemon(Program):
    """vhost-user-xdp."""

    def wait_until_ready(self, path):
        self.wait_until("it listened", lambda: procfs.listens(self.pid, path))

    def counters(self):
        """What it prints at SIGUSR1: {"transmit 0": {"packets": 7, …}, …}."""
        before = os.path.getsize(self.log)
        os.kill(self.pid, signal.SIGUSR1)
        self.wait_until("it printed its counters", lambda: "counters:" in self.output_from(before))
        time.sleep(0.02)  # its other lines
        return counters(self.output_from(before))


def counters(text):
    """The lines "… counters: NAME: packets 7, calls 3" of a daemon's log."""
    found = {}
    for line in text.splitlines():
        _, separator, rest = line.partition("counters: ")
        name, colon, values = rest.rpartition(": ")
        if not separator or not colon:
            continue
        pairs = (value.rsplit(" ", 1) for value in values.split(", "))
        found[name] = {pair[0]: int(pair[1]) for pair in pairs
                       if len(pair) == 2 and pair[1].isdigit()}
    return found
