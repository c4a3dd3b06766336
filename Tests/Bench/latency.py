"""Latency: a driver sends one frame, waits until it comes back, and sends the next.

The daemon reflects at its port (--interface=reflect:), testpmd from receive queue to transmit
queue of its net_vhost.  Driver and back-end have a CPU each; the driver (bench-driver) polls.  A
row that is paced waits between two frames, 200 microseconds on average, so that a back-end that
sleeps does sleep.  What a sleep costs without any back-end is wake.c.
"""

import json
import re

from laboratory import BACKEND_CPU, FRONTEND_CPU
from programs import Failure, Program

GAP = 200
FIGURES = ("p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns", "samples", "lost")


def measure(lab, row, contender):
    if contender == "wake-up":
        return wake(lab, row)
    if not lab.bench_driver:
        raise Failure("no bench-driver: bench.sh builds it, BENCH_DRIVER names another one")
    with lab.session() as session:
        if contender == "testpmd":
            session.reference([], ["--forward-mode=io", "--port-topology=loop", "--auto-start"])
        else:
            session.daemon("--interface=reflect:", f"--poll={contender}")
        gap = [f"--gap-us={GAP}", "--random-gap"] if row.load == "paced" else []
        values = bench_driver(lab, session, row, "latency", *gap)
        if not values.get("samples"):
            raise Failure(f"bench-driver got no frame back: {values}")
        return {name: values[name] for name in FIGURES if name in values}


def wake(lab, row):
    """Tests/Bench/wake.c: a thread that is woken, and answers."""
    if not lab.wake:
        raise Failure("wake.c is not compiled: bench.sh does that")
    with lab.session() as session:
        program = session.add(Program, "wake", [
            "taskset", "-c", str(FRONTEND_CPU), lab.wake, str(BACKEND_CPU), str(lab.seconds),
            str(GAP if row.load == "paced" else 0)], near=False)
        return parse(program.wait_for_end(lab.seconds + 25))


def bench_driver(lab, session, row, command, *options):
    """The result of bench-driver, which runs for a window."""
    program = session.add(Program, "bench-driver", [
        "taskset", "-c", str(FRONTEND_CPU), lab.bench_driver, command,
        f"--socket={session.socket}", f"--size={row.size}", f"--seconds={lab.seconds}", *options,
        *(["--packed"] if row.ring == "packed" else [])], near=False)
    return parse(program.wait_for_end(lab.seconds + 25))


def parse(output):
    found = re.search(r"^\{.*\}", output, re.M | re.S)
    if not found:
        raise Failure(f"bench-driver printed no result: {output[-500:]}")
    return json.loads(found.group(0))
