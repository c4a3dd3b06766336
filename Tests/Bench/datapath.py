"""The data path alone: no interface, but everything else, with the copies.

  null      the driver sends, the back-end drops (daemon: --interface=null:, testpmd: rxonly)
  generate  the back-end makes packets (daemon: --interface=generate:SIZE, testpmd: txonly)

Whether the back-end or the driver is what limits the rate is not guessed: when the back-end does,
a driver that sends finds its ring full (bursts refused), and one that receives finds it empty.
"""

import time

from laboratory import require_packets
from testpmd import device_arguments

# Less than this share of bursts that found the ring full (or empty) is jitter.
EVIDENT = 0.05
EVIDENCE_SECONDS = 0.5


def measure(lab, row, contender):
    with lab.session() as session:
        sends = row.case == "null"
        if contender == "daemon":
            port = "null:" if sends else f"generate:{row.size}"
            back_end = session.daemon(f"--interface={port}", f"--queues={row.queues}")
        else:
            back_end = reference(session, row)
        device = f"{device_arguments(row.ring, row.mergeable)},queues={row.queues}"
        driver = session.front_end("txonly" if sends else "rxonly", device,
                                   [*queue_options(row), *(size_option(row) if sends else [])])
        driver.start()
        time.sleep(lab.warm_up)

        shown = {}

        def count():
            shown.update(driver.port_statistics())
            return shown["transmitted" if sends else "received"]

        result = session.window([back_end], count).figures()
        require_packets(result, back_end)
        # testpmd's rate since the statistics before: its clock is nearer to its counters than ours.
        result["packets_per_second"] = shown[
            "transmitted_per_second" if sends else "received_per_second"]
        evidence(session, row, contender, back_end, driver, result)
        driver.stop()
        if sends:
            time.sleep(0.1)
            result["lost"] = (driver.port_statistics()["transmitted"]
                              - taken(contender, back_end))
        return result


def reference(session, row):
    options = ["--auto-start", *queue_options(row)]
    if row.case == "null":
        options.append("--forward-mode=rxonly")
    else:
        options += ["--forward-mode=txonly", *size_option(row)]
    return session.reference([], options, queues=row.queues)


def queue_options(row):
    return [f"--rxq={row.queues}", f"--txq={row.queues}"]


def size_option(row):
    return [f"--txpkts={row.size}"]


def taken(contender, back_end):
    """What the back-end has got from the driver: what is counted is what arrived."""
    if contender == "daemon":
        return sum(values["packets"] for name, values in back_end.counters().items()
                   if name.startswith("transmit"))
    return back_end.port_statistics()["received"]


def evidence(session, row, contender, back_end, driver, result):
    """Adds to `result` who limits the rate, and what a packet costs without idle turns.

    In a window of its own, since counting costs something.
    """
    driver.record("burst-stats")
    if contender == "testpmd":
        back_end.record("core-cycles")
        # A burst under way would count from the beginning of time.
        time.sleep(0.05)
        back_end.clear()
    driver.clear()
    before = snapshot(contender, back_end)
    time.sleep(EVIDENCE_SECONDS)
    after = snapshot(contender, back_end)
    seen = driver.forward_statistics()
    direction = "TX" if row.case == "null" else "RX"
    share = seen.get(f"empty_{direction}_share", 0.0)
    if row.case == "null":
        share = max(share, seen["refused_share"])
    result["evidence_share"] = share
    result["limited_by"] = "back-end" if share >= EVIDENT else "driver"
    if contender == "testpmd":
        own = back_end.forward_statistics()
        packets = own["received"] if row.case == "null" else own["transmitted"]
        if packets and "busy_nanoseconds" in own:
            result["busy_ns"] = own["busy_nanoseconds"] / packets
        return
    result.update(busy(before, after, "transmit" if row.case == "null" else "receive"))


def snapshot(contender, back_end):
    """The daemon's CPU seconds and its counters, of one moment."""
    return (back_end.cpu_seconds(), back_end.counters()) if contender == "daemon" else None


def busy(before, after, direction):
    """What a packet cost the daemon between two snapshots, without the turns in which nothing moved.

    The daemon counts the nanoseconds that its idle turns took, per worker; a daemon that does not
    leaves no more than all its CPU time to be divided by the packets, which is at most the cost.
    """
    def difference(counter, kind):
        return sum(values.get(counter, 0) - before[1].get(name, {}).get(counter, 0)
                   for name, values in after[1].items() if name.startswith(kind))

    packets = difference("packets", direction)
    if packets <= 0:
        return {}
    cpu = (after[0] - before[0]) * 1e9
    counted = any("idle_ns" in values for values in after[1].values())
    return {"busy_ns": max(0.0, cpu - difference("idle_ns", "worker")) / packets,
            "busy_is_bound": not counted}
