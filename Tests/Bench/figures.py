"""From single runs to what a row says: medians with their spread, ratios of neighbouring runs, and
which of two things a ratio may be taken of."""

import statistics

REFERENCE = "testpmd"
METRICS = (
    "packets_per_second", "cpu_ns", "wall_ns", "user_ns", "system_ns", "busy_ns", "cpu_share",
    "evidence_share", "lost_share", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns",
    "idle_cpu_percent", "cpu_seconds", "wakeups_per_second", "ready_ms", "first_packet_ms",
    "guest_mib", "frames_mib", "rest_mib", "least_share", "gbit_per_second", "gbit_per_cpu",
    "gbit_per_busy_cpu", "gbit_per_machine_cpu", "cpu_per_gb", "machine_per_gb",
)


def spread(values):
    return {"median": statistics.median(values), "minimum": min(values), "maximum": max(values),
            "count": len(values)}


def summarize(row, runs, absent=None):
    """What a row says, from all of its runs; `absent`: {contender: why it is not here}."""
    summary = {"row": row.name, "scenario": row.scenario, "case": row.case, "size": row.size,
               "ring": row.ring, "mergeable": row.mergeable, "interface": row.interface,
               "load": row.load, "queues": row.queues, "daemons": row.daemons,
               "entries": row.entries, "regions": row.regions,
               "contenders": {}, "ratios": {}, "absent": absent or {}}
    of = {contender: [run for run in runs
                      if run["row"] == row.name and run["contender"] == contender]
          for contender in row.contenders}
    for contender, own in of.items():
        if not own:
            continue
        summary["contenders"][contender] = {
            metric: spread([run[metric] for run in own if run.get(metric) is not None])
            for metric in METRICS if any(run.get(metric) is not None for run in own)}
        summary["contenders"][contender]["limited_by"] = most_frequent(
            run.get("limited_by") for run in own)
        summary["contenders"][contender]["busy_is_bound"] = any(
            run.get("busy_is_bound") for run in own)
        summary["contenders"][contender]["lost"] = sum(run.get("lost", 0) for run in own)
    for contender in of:
        if contender not in (REFERENCE, "floor"):
            summary["ratios"][contender] = {
                metric: ratio for metric in METRICS
                if (ratio := paired(of[contender], of.get(REFERENCE, []), metric))}
    if row.scenario == "tcp":
        # How many times that of each other contender the daemon has.
        summary["against"] = {
            contender: {metric: ratio for metric in METRICS
                        if (ratio := paired(of["daemon"], own, metric))}
            for contender, own in of.items() if contender != "daemon"}
    if "floor" in of:
        ratio = above_floor(of)
        if ratio:
            summary["ratios"].setdefault("daemon", {})["above_floor"] = ratio
    if "daemon" in of and REFERENCE in of:
        summary["verdict"] = verdict(summary)
    return summary


def most_frequent(values):
    values = [value for value in values if value]
    return statistics.mode(values) if values else None


def by_round(runs, metric):
    return {run["round"]: run[metric] for run in runs if run.get(metric) is not None}


def paired(runs, references, metric):
    """The ratio, round by round: neighbours in time are disturbed alike."""
    ours, theirs = by_round(runs, metric), by_round(references, metric)
    ratios = [ours[n] / theirs[n] for n in ours if theirs.get(n)]
    return spread(ratios) if ratios else None


def above_floor(of):
    """What is left of the CPU time per packet when AF_XDP itself is taken away, as a ratio.

    The floor is the median of its runs: it is subtracted from both, and its own noise is not
    theirs.
    """
    metric = "busy_ns" if any("busy_ns" in run for run in of["daemon"]) else "cpu_ns"
    floors = [run[metric] for run in of["floor"] if run.get(metric) is not None]
    ours, theirs = by_round(of["daemon"], metric), by_round(of[REFERENCE], metric)
    if not floors:
        return None
    floor = statistics.median(floors)
    ratios = [(ours[n] - floor) / (theirs[n] - floor)
              for n in ours if n in theirs and theirs[n] > floor]
    return spread(ratios) if ratios else None


def verdict(summary):
    """What of the row may be compared: {"compared", "bound", "ratio"}.

    Packets per second are the back-end's own only where it limits them.  Where the driver limits
    the daemon's, but the back-end testpmd's, the daemon is at least that much faster.
    """
    ours, theirs = summary["contenders"].get("daemon"), summary["contenders"].get(REFERENCE)
    ratios = summary["ratios"].get("daemon", {})
    if not ours or not theirs:
        return None
    ours_limit, theirs_limit = ours.get("limited_by"), theirs.get("limited_by")
    if ours_limit is None or "packets_per_second" not in ratios:
        return None
    if theirs_limit == "back-end":
        bound = "" if ours_limit == "back-end" else "at least"
        return {"compared": "packets per second", "bound": bound,
                "ratio": ratios["packets_per_second"]}
    if ours_limit == "back-end":
        return {"compared": "packets per second", "bound": "at most",
                "ratio": ratios["packets_per_second"]}
    if "busy_ns" in ratios:
        bound = "at most" if ours.get("busy_is_bound") else ""
        return {"compared": "busy CPU per packet", "bound": bound, "ratio": ratios["busy_ns"]}
    if "cpu_share" in ratios:
        return {"compared": "CPU in all", "bound": "", "ratio": ratios["cpu_share"]}
    return None


def disturbance(runs):
    """The most that others had of the machine during a run: (CPUs, CPUs taken by the host)."""
    return (max((run.get("other_processes_cpus", 0.0) for run in runs), default=0.0),
            max((run.get("stolen_cpus", 0.0) for run in runs), default=0.0))
