"""Scale.  Rings and memory of other shapes: bench-driver transmits as fast as it can into a port
that drops.  And several daemons, each with an interface and a guest of its own, on one CPU.

testpmd serves them all in one process, on one lcore, which is its best.  The guests are ports of
one testpmd on the other CPU.  Counted is what the far ends of all wires have got.
"""

import os
import subprocess
import time

from laboratory import far_counter, require_packets
from latency import bench_driver
from programs import Failure
from testpmd import device_arguments


def shape(lab, row, contender):
    if not lab.bench_driver:
        raise Failure("no bench-driver: bench.sh builds it, BENCH_DRIVER names another one")
    with lab.session() as session:
        if contender == "daemon":
            session.daemon("--interface=null:")
        else:
            session.reference([], ["--forward-mode=rxonly", "--auto-start"])
        values = bench_driver(lab, session, row, "flood", f"--queue-size={row.entries}",
                              f"--regions={row.regions}")
        rate = values["packets_per_second"]
        return {"packets_per_second": rate, "wall_ns": 1e9 / rate,
                "evidence_share": values["full"],
                # The share of looks at the rings that found them still full.
                "limited_by": "back-end" if values["full"] >= 0.5 else "driver"}


def measure(lab, row, contender):
    numbers = range(row.daemons)
    make_wires(lab, row.daemons)
    with lab.session() as session:
        if contender == "daemon":
            back_ends = [
                session.daemon(f"--interface=nic{i}", "--dedicated", number=i) for i in numbers]
        else:
            back_ends = [session.reference(
                [lab.reference_device(f"nic{i}", i) for i in numbers],
                ["--forward-mode=io", "--auto-start"], megabytes=512, pairs=row.daemons)]
        driver = session.front_end(
            "txonly", device_arguments(row.ring, row.mergeable), [f"--txpkts={row.size}"],
            megabytes=512, pairs=row.daemons)
        driver.start()
        time.sleep(lab.warm_up)
        each = [[far_counter(f"peer{i}", "rx_packets") for i in numbers]]

        def count():
            each.append([far_counter(f"peer{i}", "rx_packets") for i in numbers])
            return sum(each[-1])

        result = session.window(back_ends, count).figures()
        require_packets(result, back_ends[0])
        shares = [after - before for before, after in zip(each[-2], each[-1])]
        result["least_share"] = min(shares) / max(1, sum(shares)) * row.daemons
        return result


def make_wires(lab, count):
    """More veth pairs beside the first; they go with the namespaces."""
    for i in range(1, count):
        if os.path.exists(f"/sys/class/net/peer{i}"):
            continue
        # This process is in the far namespace.
        subprocess.run(["ip", "link", "add", f"peer{i}", "type", "veth", "peer", "name", f"nic{i}",
                        "netns", lab.near], check=True)
        subprocess.run(["ethtool", "-K", f"peer{i}", "tx", "off"], check=True,
                       stdout=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "set", f"peer{i}", "up"], check=True)
        subprocess.run(["ip", "-n", lab.near, "link", "set", f"nic{i}", "up"], check=True)
