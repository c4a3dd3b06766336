"""The tables of docs/performance.md, in Markdown, from the summaries of rows."""


def markdown(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def figure(summary, contender, metric, scale=1.0, digits=2, whole=False):
    """A median, with minimum and maximum unless there was one run only."""
    value = summary["contenders"].get(contender, {}).get(metric)
    if value is None:
        return "-"
    median, least, most = (format(value[key] * scale, f".{digits}f")
                           for key in ("median", "minimum", "maximum"))
    return median if value["count"] == 1 or whole else f"{median} ({least}-{most})"


def ratio(value, bound=""):
    if value is None:
        return "-"
    signs = {"at least": "≥ ", "at most": "≤ "}
    text = f"{signs.get(bound, '')}{value['median']:.2f}"
    return text if value["count"] == 1 else \
        f"{text} ({value['minimum']:.2f}-{value['maximum']:.2f})"


def name(summary):
    return f"`{summary['row']}`"


def mpps(summary, contender):
    return figure(summary, contender, "packets_per_second", 1e-6, 2)


def nanoseconds(summary, contender, metric):
    sign = ""
    own = summary["contenders"].get(contender, {})
    if metric == "busy_ns" and own.get("busy_is_bound"):
        sign = "≤ "
    text = figure(summary, contender, metric, 1, 0, whole=True)
    return text if text == "-" else sign + text


def limits(summary):
    """Who limits the rate, for the daemon and for testpmd."""
    return " / ".join(
        summary["contenders"].get(contender, {}).get("limited_by") or "-"
        for contender in ("daemon", "testpmd"))


def verdict(summary):
    found = summary.get("verdict")
    if not found:
        return "-", "-"
    return found["compared"], ratio(found["ratio"], found["bound"])


def data_path(summaries):
    return markdown(
        ["row", "daemon, Mpps", "testpmd, Mpps", "limited by (daemon / testpmd)", "compared",
         "ratio", "busy ns per packet: daemon", "testpmd"],
        [[name(s), mpps(s, "daemon"), mpps(s, "testpmd"), limits(s), *verdict(s),
          nanoseconds(s, "daemon", "busy_ns"), nanoseconds(s, "testpmd", "busy_ns")]
         for s in summaries])


def cpu(summary, contender):
    """CPU time per packet, and how it divides."""
    own = summary["contenders"].get(contender, {})
    if "cpu_ns" not in own:
        return "-"
    if "busy_ns" in own and summary["case"] == "receive":
        return (nanoseconds(summary, contender, "cpu_ns") + ", "
                + nanoseconds(summary, contender, "busy_ns") + " busy")
    total, user, system = (own[key]["median"] for key in ("cpu_ns", "user_ns", "system_ns"))
    return f"{total:.0f} ({user:.0f} + {system:.0f})"


def wire(summaries):
    return markdown(
        ["row", "daemon, Mpps", "testpmd, Mpps", "AF_XDP alone, Mpps", "ratio",
         "limited by (daemon / testpmd)", "CPU ns per packet (user + system): daemon", "testpmd",
         "AF_XDP alone", "ratio above AF_XDP alone"],
        [[name(s), mpps(s, "daemon"), mpps(s, "testpmd"), mpps(s, "floor"),
          ratio(s["ratios"].get("daemon", {}).get("packets_per_second")), limits(s),
          cpu(s, "daemon"), cpu(s, "testpmd"), cpu(s, "floor"),
          ratio(s["ratios"].get("daemon", {}).get("above_floor"))]
         for s in summaries])


def load(summaries):
    return markdown(
        ["row", "Mpps", "CPUs in use: daemon", "testpmd", "ratio"],
        [[name(s), mpps(s, "daemon"), figure(s, "daemon", "cpu_share"),
          figure(s, "testpmd", "cpu_share"),
          ratio(s["ratios"].get("daemon", {}).get("cpu_share"))] for s in summaries])


TCP_LABELS = {
    "daemon": "daemon", "lane-off": "daemon, `--bulk-lane=off`", "testpmd": "testpmd",
    "kernel": "kernel: tap, bridge",
    ("transmit", "offloads-off"): "daemon, `--disable-offload=csum,tso,uso`",
    ("receive", "offloads-off"): "daemon, `--disable-offload=gro`",
}


def tcp(summaries):
    """What each has, and what the daemon has in comparison."""
    rows, ratios = [], []
    for s in summaries:
        for contender in [*s["contenders"], *s["absent"]]:
            label = TCP_LABELS.get((s["case"], contender)) or TCP_LABELS[contender]
            if contender in s["absent"]:
                rows.append([name(s), label, s["absent"][contender], *["-"] * 5])
                continue
            rows.append([name(s), label, *[figure(s, contender, metric) for metric in (
                *TCP_METRICS, "cpu_per_gb", "machine_per_gb")]])
            if contender in s["against"]:
                ratios.append([name(s), label, *[
                    ratio(s["against"][contender].get(metric)) for metric in TCP_METRICS]])
    return markdown(
        ["row", "", "Gbit/s", "Gbit/s per CPU", "without idle polling", "of the whole machine",
         "CPU s per GB", "of the whole machine"], rows) + "\n\nThe daemon's to these:\n\n" + markdown(
        ["row", "", "Gbit/s", "Gbit/s per CPU", "without idle polling", "of the whole machine"],
        ratios)


TCP_METRICS = ("gbit_per_second", "gbit_per_cpu", "gbit_per_busy_cpu", "gbit_per_machine_cpu")
LABELS = {"adaptive": "daemon, adaptive", "busy": "daemon, busy", "sleep": "daemon, sleep",
          "testpmd": "testpmd", "wake-up": "a thread woken, without a back-end"}


def latency(summaries):
    rows = []
    for s in summaries:
        for contender in s["contenders"]:
            ratios = s["ratios"].get(contender, {})
            rows.append([
                name(s), LABELS.get(contender, contender),
                *[figure(s, contender, f"{point}_ns", 1e-3, 2)
                  for point in ("p50", "p99", "p999", "max")],
                ratio(ratios.get("p50_ns")), ratio(ratios.get("p99_ns"))])
    return markdown(["row", "polling", "p50, µs", "p99, µs", "p99.9, µs", "largest, µs",
                     "p50 to testpmd's", "p99 to testpmd's"], rows)


RESTING = {
    "idle": (("idle_cpu_percent", "CPU, % of one", 3),
             ("wakeups_per_second", "wake-ups a second", 1)),
    "start": (("ready_ms", "exec to listening, ms", 1),
              ("first_packet_ms", "exec to the first packet of a running guest, ms", 1)),
    "memory": (("rest_mib", "resident beyond frames and guest memory, MiB", 1),
               ("frames_mib", "frame memory, MiB", 1)),
}


def resting(summaries):
    return markdown(
        ["row", "", "daemon", "testpmd"],
        [[name(s), label, figure(s, "daemon", metric, 1, digits),
          figure(s, "testpmd", metric, 1, digits)]
         for s in summaries for metric, label, digits in RESTING[s["case"]]])


def daemons(summaries):
    return markdown(
        ["row", "daemon, Mpps in all", "testpmd, Mpps in all", "ratio", "CPU ns per packet: daemon",
         "testpmd", "least share of a guest: daemon", "testpmd"],
        [[name(s), mpps(s, "daemon"), mpps(s, "testpmd"),
          ratio(s["ratios"].get("daemon", {}).get("packets_per_second")),
          nanoseconds(s, "daemon", "cpu_ns"), nanoseconds(s, "testpmd", "cpu_ns"),
          figure(s, "daemon", "least_share"), figure(s, "testpmd", "least_share")]
         for s in summaries])


def shape(summaries):
    return markdown(
        ["row", "daemon, Mpps", "ns per packet", "testpmd, Mpps", "ratio",
         "limited by (daemon / testpmd)"],
        [[name(s), mpps(s, "daemon"), figure(s, "daemon", "wall_ns", 1, 1), mpps(s, "testpmd"),
          ratio(s["ratios"].get("daemon", {}).get("packets_per_second")), limits(s)]
         for s in summaries])


def path_cost(text):
    """From lines "NAME INSTRUCTIONS" of the file path-cost."""
    rows = [line.rsplit(None, 1) for line in text.splitlines()
            if line.strip() and not line.startswith("#")]
    return markdown(["path", "instructions per packet"],
                    [[f"`{row[0].strip()}`", row[1]] for row in rows if len(row) == 2])


# Parts of the document, each from the rows of some scenarios.
PARTS = {
    "data-path": (("data-path",), data_path), "wire": (("wire",), wire), "load": (("load",), load),
    "latency": (("latency",), latency), "resting": (("idle", "start", "memory"), resting),
    "queues": (("queues",), data_path), "daemons": (("daemons",), daemons),
    "shape": (("shape",), shape), "tcp": (("tcp",), tcp),
}


def parts(summaries):
    """The tables that these summaries make: {part: Markdown}."""
    found = {}
    for part, (scenarios, make) in PARTS.items():
        own = [summary for summary in summaries if summary["scenario"] in scenarios]
        if own:
            found[part] = make(own)
    return found
