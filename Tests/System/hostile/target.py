"""The daemon that is attacked: argv[1] is its socket, argv[2] its process id."""

import os
import signal
import sys
import time

from frontend import FrontEnd, Gone

SOCKET, PID = sys.argv[1], int(sys.argv[2])


def eventually(condition, what, within=10):
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not within {within} s: {what}"
        time.sleep(0.001)


def open_descriptors():
    return len(os.listdir(f"/proc/{PID}/fd"))


def settled_descriptors(quiet=0.3):
    """Once none comes or goes any more: what a peer sent, the daemon closes in a thread of its own, and one
    that is still to be closed must not count as one that stays."""
    count, since = open_descriptors(), time.monotonic()
    while time.monotonic() < since + quiet:
        time.sleep(0.001)
        now = open_descriptors()
        if now != count:
            count, since = now, time.monotonic()
    return count


def processor_time():
    """In seconds, of all of its threads."""
    with open(f"/proc/{PID}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def take_place(timeout=10, within=20):
    """A front-end that is served: it is refused, and tries again, while the daemon still reads what
    another one has left in its socket, or has yet to hear that it has gone."""
    end = time.monotonic() + within
    while True:
        front = FrontEnd(SOCKET, timeout)
        try:
            front.synchronize()
            return front
        except Gone:
            front.close()
            assert time.monotonic() < end, f"nobody is served for {within} s"
            time.sleep(0.05)


def behaves(within=20):
    """A front-end that does everything right is served, as soon as the place is free."""
    end = time.monotonic() + within
    while True:
        front = take_place(within=within)
        try:
            front.set_up()
            assert front.passes()
            return
        except Gone:
            assert time.monotonic() < end, f"nobody is served for {within} s"
            time.sleep(0.05)
        finally:
            front.close()


def stop():
    """Stops the daemon. The signal is there at once, but each thread stops only when it has seen it."""
    os.kill(PID, signal.SIGSTOP)
    eventually(lambda: all(map(is_stopped, os.listdir(f"/proc/{PID}/task"))), "the daemon stops")


def is_stopped(thread):
    try:
        with open(f"/proc/{PID}/task/{thread}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return True


def go_on():
    os.kill(PID, signal.SIGCONT)
