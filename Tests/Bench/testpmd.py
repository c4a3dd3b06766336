"""dpdk-testpmd: its command lines, as front-end and as the back-end to compare with, and what it
prints."""

import re

from programs import Program

HUGE_PAGES = ["--in-memory", "--single-file-segments"]
NORMAL_PAGES = ["--no-huge"]

# The arguments of net_virtio_user that make each ring format, by the name in a row.
RINGS = {
    "split": "packed_vq=0,in_order=0",
    "inorder": "packed_vq=0,in_order=1",
    "packed": "packed_vq=1,in_order=0",
}
# Without mergeable buffers DPDK has vector code for some; AVX-512 where the machine has it.
RINGS_OF_ONE_BUFFER = {
    "split": "packed_vq=0,in_order=0,vectorized=1",
    "inorder": "packed_vq=0,in_order=1",
    "packed": "packed_vq=1,in_order=1,vectorized=1",
}


def device_arguments(ring, mergeable):
    """Arguments of net_virtio_user for a ring format."""
    rings = RINGS if mergeable else RINGS_OF_ONE_BUFFER
    return f"mrg_rxbuf={int(mergeable)},{rings[ring]}"


def command_line(cpu, prefix, devices, options, pages, megabytes=256, mbufs=16384):
    """One lcore reads commands and sleeps, one forwards; both on `cpu`."""
    return [
        "stdbuf", "-oL", "dpdk-testpmd", f"--lcores=0@{cpu},1@{cpu}", *pages, "-m", str(megabytes),
        "--no-pci", f"--file-prefix={prefix}", "--force-max-simd-bitwidth=512",
        *[f"--vdev={device}" for device in devices],
        "--", "-i", f"--total-num-mbufs={mbufs}", *options,
    ]


class Testpmd(Program):
    def wait_until_ready(self):
        self.wait_until("it was ready", lambda: "testpmd> " in self.output)

    def start(self, how="start"):
        self.command(how, "packets/burst")

    def stop(self):
        """Stops forwarding; returns what the run's statistics say."""
        return forwarded(self.command("stop", "\nDone."))

    def port_statistics(self, port=0):
        """Counts of one port so far, and its rates since they were last asked for."""
        text = self.command(f"show port stats {port}", "Tx-bps:")
        return {"received": number("RX-packets", text), "transmitted": number("TX-packets", text),
                "received_per_second": number("Rx-pps", text),
                "transmitted_per_second": number("Tx-pps", text)}

    def all_port_statistics(self):
        """Counts of all ports together: what they received, what they transmitted."""
        text = self.command("show port stats all", "testpmd> ")
        return (sum(int(x) for x in re.findall(r"RX-packets: *(\d+)", text)),
                sum(int(x) for x in re.findall(r"TX-packets: *(\d+)", text)))

    def record(self, what):
        """Has it count bursts by size ("burst-stats") or busy cycles ("core-cycles")."""
        self.command(f"set record-{what} on", "testpmd> ")

    def clear(self):
        self.command("clear fwd stats all", "testpmd> ")

    def forward_statistics(self):
        return forwarded(self.command("show fwd stats all", "testpmd> "))


def number(label, text):
    """The last number after `label`; 0 if there is none."""
    found = re.findall(re.escape(label) + r": *(\d+)", text)
    return int(found[-1]) if found else 0


def forwarded(text):
    """What `stop` or `show fwd stats all` print: totals of all ports, and what was recorded.

    empty_share: bursts of no packets among all that were received, or for a port that only
    transmits, that its ring took.
    """
    text = text.replace("\r", "")
    totals = text[text.rfind("Accumulated"):]
    result = {
        "received": number("RX-packets", totals), "transmitted": number("TX-packets", totals),
        "refused": number("TX-dropped", totals),
    }
    offered = result["transmitted"] + result["refused"]
    result["refused_share"] = result["refused"] / offered if offered else 0.0
    for direction in ("RX", "TX"):
        bursts = re.findall(direction + r"-bursts : (\d+) \[(.*?)\]", text)
        counted = [(int(count), empty_percent(shares)) for count, shares in bursts]
        total = sum(count for count, _ in counted)
        if total:
            result[f"empty_{direction}_share"] = sum(
                count * percent for count, percent in counted) / total / 100
    cycles = re.search(r"total cycles=(\d+) .*at (\d+) MHz", totals)
    if cycles:
        result["busy_nanoseconds"] = int(cycles.group(1)) / int(cycles.group(2)) * 1000
    return result


def empty_percent(shares):
    found = re.search(r"(\d+)% of 0 pkts", shares)
    return int(found.group(1)) if found else 0
