"""Latency: a driver sends one frame, waits until it comes back, and sends the next.

The daemon reflects at its port (--interface=reflect:), testpmd from receive queue to transmit
queue of its net_vhost.  Driver and back-end have a CPU each; the driver (bench-driver) polls.
"""

import json
import re

from laboratory import FRONTEND_CPU
from programs import Failure, Program

FIGURES = ("p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns", "samples", "lost")


def measure(lab, row, contender):
    if not lab.bench_driver:
        raise Failure("no bench-driver: bench.sh builds it, BENCH_DRIVER names another one")
    with lab.session() as session:
        if contender == "testpmd":
            session.reference([], ["--forward-mode=io", "--port-topology=loop", "--auto-start"])
        else:
            session.daemon("--interface=reflect:", f"--poll={contender}")
        program = session.add(Program, "bench-driver", [
            "taskset", "-c", str(FRONTEND_CPU), lab.bench_driver, "latency",
            f"--socket={session.socket}", f"--size={row.size}", f"--seconds={lab.seconds}",
            *(["--packed"] if row.ring == "packed" else [])], near=False)
        return parse(program.wait_for_end(lab.seconds + 15))


def parse(output):
    found = re.search(r"^\{.*\}", output, re.M | re.S)
    if not found:
        raise Failure(f"bench-driver printed no result: {output[-500:]}")
    values = json.loads(found.group(0))
    if not values.get("samples"):
        raise Failure(f"bench-driver got no frame back: {values}")
    return {name: values[name] for name in FIGURES if name in values}
