"""The daemon that is attacked: argv[1] is its socket, argv[2] its process id."""

import os
import sys
import time

from frontend import FrontEnd, Gone

SOCKET, PID = sys.argv[1], int(sys.argv[2])


def eventually(condition, what, within=10):
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not within {within} s: {what}"
        time.sleep(0.01)


def open_descriptors():
    return len(os.listdir(f"/proc/{PID}/fd"))


def processor_time():
    """In seconds, of all of its threads."""
    with open(f"/proc/{PID}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def behaves(within=10):
    """A front-end that does everything right is served, as soon as the place is free: it is refused, and
    tries again, while the daemon still reads what another one has left in its socket."""
    end = time.monotonic() + within
    while True:
        front = FrontEnd(SOCKET)
        try:
            front.set_up()
            assert front.passes()
            return
        except Gone:
            assert time.monotonic() < end, f"nobody is served for {within} s"
            time.sleep(0.05)
        finally:
            front.close()
