"""The whole way: guest, back-end, AF_XDP, and a veth pair (or an ifb, which only takes packets).

  transmit  the driver sends as fast as it can; counted is what the far end has got
  receive   a sender at the far end sends; counted is what the driver has got.  The sender and the
            driver share a CPU, so the sender limits the rate: what counts is CPU time per packet
  both      packets go round: the driver forwards what it receives, the far end of the wire sends
            it back in its driver (XDP_TX).  No sender, and the back-end has its CPU full.  Counted
            is what the far end has got
  quarter   a sender keeps a quarter of the rate that raw AF_XDP can send on this wire; what counts
            is the CPU time that the back-end uses in all, polling included

The floor is floor.c: AF_XDP alone, without a guest, on the same interface and in the same run.
"""

import json
import time

from datapath import EVIDENCE_SECONDS, EVIDENT, busy, snapshot
from laboratory import BACKEND_CPU, far_counter, require_packets
from programs import Failure
from testpmd import device_arguments

# Packets that go round: enough for full batches both ways, and no ring that they could overflow.
IN_CIRCULATION_BURSTS = 4
BURST = 32


def measure(lab, row, contender):
    measures = {"transmit": transmit, "receive": receive, "both": both}
    if contender == "floor":
        return floor(lab, row)
    packets_per_second = rate(lab, row)
    with lab.session() as session:
        return measures[row.case](lab, session, row, contender, packets_per_second)


def start_back_end(session, row, contender):
    if contender == "daemon":
        return session.daemon(f"--interface={row.interface}", "--dedicated")
    return session.reference([session.lab.reference_device(row.interface)],
                             ["--forward-mode=io", "--auto-start"])


def device(row):
    return device_arguments(row.ring, row.mergeable)


def far_end(lab, row):
    """How many packets have come to the end of the wire; an ifb counts what it drops."""
    if row.interface == "nic0":
        return far_counter("peer0", "rx_packets")
    return lab.near_counter(row.interface, "rx_packets")


def transmit(lab, session, row, contender, _):
    back_end = start_back_end(session, row, contender)
    driver = session.front_end("txonly", device(row), [f"--txpkts={row.size}"])
    before = far_end(lab, row)
    driver.start()
    time.sleep(lab.warm_up)
    result = session.window([back_end], lambda: far_end(lab, row)).figures()
    require_packets(result, back_end)
    driver.record("burst-stats")
    driver.clear()
    time.sleep(EVIDENCE_SECONDS)
    limit(result, driver.forward_statistics(), "TX")
    driver.stop()
    time.sleep(0.2)
    result["lost"] = driver.port_statistics()["transmitted"] - (far_end(lab, row) - before)
    return result


def receive(lab, session, row, contender, packets_per_second):
    back_end = start_back_end(session, row, contender)
    driver = session.front_end("rxonly", device(row))
    driver.start()
    send(session, row, packets_per_second)
    time.sleep(lab.warm_up)
    shown = []

    def count():
        shown.append((driver.port_statistics()["received"],
                      far_counter("peer0", "tx_packets")))
        return shown[-1][0]

    result = session.window([back_end], count).figures()
    require_packets(result, back_end)
    received, sent = (after - before for before, after in zip(shown[-2], shown[-1]))
    result["lost_share"] = max(0.0, 1 - received / sent) if sent else None
    result["limited_by"] = "sender"
    if row.load == "full":
        add_busy(contender, back_end, result)
    return result


def both(lab, session, row, contender, packets_per_second):
    back_end = start_back_end(session, row, contender)
    if row.load == "quarter":
        driver = session.front_end("macswap", device(row), ["--port-topology=loop"])
        driver.start()
        send(session, row, packets_per_second)
    else:
        reflect(session)
        driver = session.front_end("io", device(row),
                                   ["--port-topology=loop", f"--txpkts={row.size}"])
        driver.start(f"start tx_first {IN_CIRCULATION_BURSTS}")
    time.sleep(lab.warm_up)
    result = session.window([back_end], lambda: far_end(lab, row)).figures()
    if result["packets"] < 1000:
        raise Failure(f"packets do not go round: {result['packets']} in {result['seconds']:.1f} s")
    if row.load == "quarter":
        result["limited_by"] = "sender"
        return result
    driver.record("burst-stats")
    driver.clear()
    time.sleep(EVIDENCE_SECONDS)
    limit(result, driver.forward_statistics(), "RX")
    return result


def limit(result, seen, direction):
    share = seen.get(f"empty_{direction}_share", 0.0)
    if direction == "TX":
        share = max(share, seen["refused_share"])
    result["evidence_share"] = share
    result["limited_by"] = "back-end" if share >= EVIDENT else "driver"


def add_busy(contender, back_end, result):
    """What a packet costs without idle turns, in a window of its own."""
    if contender == "testpmd":
        back_end.record("core-cycles")
        time.sleep(0.05)
        back_end.clear()
        time.sleep(EVIDENCE_SECONDS)
        own = back_end.forward_statistics()
        packets, busy_ns = own["received"], own.get("busy_nanoseconds")
        if packets and busy_ns is not None:
            result["busy_ns"] = busy_ns / packets
    else:
        before = snapshot(contender, back_end)
        time.sleep(EVIDENCE_SECONDS)
        result.update(busy(before, snapshot(contender, back_end), "receive"))


def send(session, row, packets_per_second):
    sender = session.floor("send", "peer0", row.size, 3600, packets_per_second, name="sender")
    sender.wait_until("it sent", lambda: "ready" in sender.output)


def reflect(session):
    reflector = session.floor("reflect", "peer0", 3600, name="reflector")
    reflector.wait_until("it reflected", lambda: "ready" in reflector.output)


def rate(lab, row):
    """Packets a second of the sender; 0 is as many as it can."""
    if row.load != "quarter":
        return 0
    if "wire" not in lab.notes:
        with lab.session() as session:
            lab.notes["wire"] = run_floor(session, "transmit", "nic0", row.size, 1.0)
    return int(lab.notes["wire"]["packets"] / lab.notes["wire"]["seconds"] / 4)


def floor(lab, row):
    with lab.session() as session:
        if row.case == "transmit":
            before, begin = far_end(lab, row), time.monotonic()
            own = run_floor(session, "transmit", row.interface, row.size, lab.seconds)
            # The far end's count, which includes the fifth of a second before the floor's own.
            arrived, elapsed = far_end(lab, row) - before, time.monotonic() - begin
            claimed = own["packets"] / own["seconds"]
            if arrived < 0.9 * own["packets"]:
                raise Failure(f"floor: {arrived} packets arrived of {own['packets']}, "
                              f"{claimed:.0f} a second, in {elapsed:.1f} s")
        elif row.case == "receive":
            send(session, row, 0)
            own = run_floor(session, "receive", row.interface, lab.seconds)
        else:
            reflect(session)
            own = run_floor(session, "forward", row.interface, row.size, lab.seconds,
                            IN_CIRCULATION_BURSTS * BURST)
    if not own["packets"]:
        raise Failure("floor: nothing moved")
    packets = own["packets"]
    return {"packets": packets, "seconds": own["seconds"],
            "packets_per_second": packets / own["seconds"],
            **{name: own[name] / packets for name in ("cpu_ns", "user_ns", "system_ns", "busy_ns")}}


def run_floor(session, *arguments):
    program = session.floor(*arguments, near=True, cpu=BACKEND_CPU)
    return json.loads(program.wait_for_end(30).splitlines()[-1])
