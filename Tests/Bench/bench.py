#!/usr/bin/env python3
"""vhost-user-xdp against dpdk-testpmd, in alternating runs on the same machine.

bench.sh prepares the namespaces and starts this in the far one: this process is the host at the
other end of the wire, whose counters count.  Rows are in rows.py, and each scenario is measured by
a module of its own; docs/performance.md says what is compared and why.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time

import datapath
import document
import figures
import latency
import resting
import rows
import scale
import tables
import tcp
import wire
from laboratory import Laboratory
from programs import Failure

MEASURES = {
    "data-path": datapath.measure, "queues": datapath.measure, "wire": wire.measure,
    "load": wire.measure, "latency": latency.measure, "idle": resting.measure,
    "start": resting.measure, "memory": resting.measure, "daemons": scale.measure,
    "shape": scale.shape, "tcp": tcp.measure,
}
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCUMENT = os.path.join(ROOT, "docs/performance.md")
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# CPUs that others may use in a run before its figures are doubtful.
QUIET = 0.1


def parse_arguments(words=None):
    parser = argparse.ArgumentParser(
        prog="bench.sh", description="vhost-user-xdp against dpdk-testpmd")
    parser.add_argument("--set", choices=list(rows.SETS), default="usual", help="which rows")
    parser.add_argument("--only", action="append", default=[], metavar="ROW[,ROW...]",
                        help="these rows alone, of any set; patterns such as 'null-*'")
    parser.add_argument("--list", action="store_true", help="prints the names of the rows")
    parser.add_argument("--rounds", type=int, help="default 5; 3 of --set=quick")
    parser.add_argument("--seconds", type=float, help="window of a run; default 1, 2 of --set=full")
    parser.add_argument("--warm-up", type=float, default=0.4,
                        help="before the window (default 0.4)")
    parser.add_argument("--idle-seconds", type=float, default=30,
                        help="of the row idle (default 30)")
    parser.add_argument("--testpmd-options", default="", metavar="OPTIONS",
                        help="more of the testpmd that is compared with: --burst=64")
    parser.add_argument("--json", default=os.path.join(ROOT, ".build/bench.json"), metavar="FILE",
                        help="where the result goes (default .build/bench.json)")
    parser.add_argument("--document", action="store_true",
                        help="writes tables and charts into docs/")
    parser.add_argument("--render", metavar="FILE",
                        help="measures nothing: writes docs/ from a result")
    for name in ("--backend", "--near", "--floor", "--wake", "--relay", "--bench-driver",
                 "--folder", "--reference-program"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--huge-pages", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.rounds is None:
        arguments.rounds = 3 if arguments.set == "quick" and not arguments.only else 5
    if arguments.seconds is None:
        arguments.seconds = 2.0 if arguments.set == "full" and not arguments.only else 1.0
    return arguments


def order(row, number):
    """A B, then B A: what drifts with time hits both alike."""
    return row.contenders if number % 2 == 0 else tuple(reversed(row.contenders))


def measure_all(lab, chosen, rounds):
    """All runs, round by round; a run that fails is told of and left out.

    A contender that there is not here is no failure: {row: {contender: why}}.
    """
    runs, failures, absent = [], [], {}
    for number in range(rounds):
        for row in chosen:
            if row.most_rounds and number >= row.most_rounds:
                continue
            for contender in order(row, number):
                if contender in absent.get(row.name, {}):
                    continue
                try:
                    run = MEASURES[row.scenario](lab, row, contender)
                except tcp.Absent as reason:
                    absent.setdefault(row.name, {})[contender] = str(reason)
                    print(f"bench: {row.name} {contender}: {reason}", file=sys.stderr)
                    continue
                except (Failure, OSError, subprocess.CalledProcessError) as failure:
                    failures.append(f"{row.name} {contender}: {failure}")
                    print(f"bench: {failures[-1]}", file=sys.stderr)
                    continue
                runs.append({"row": row.name, "contender": contender, "round": number + 1, **run})
                print(f"round {number + 1}: {row.name} {contender}: {brief(run)}", file=sys.stderr)
    return runs, failures, absent


def brief(run):
    shown = []
    if "packets_per_second" in run:
        shown.append(f"{run['packets_per_second'] / 1e6:.3f} Mpps")
    if "gbit_per_second" in run:
        shown.append(f"{run['gbit_per_second']:.2f} Gbit/s")
    for metric in ("cpu_ns", "busy_ns", "p50_ns", "p99_ns", "idle_cpu_percent", "ready_ms",
                   "first_packet_ms", "rest_mib", "gbit_per_cpu", "gbit_per_busy_cpu",
                   "machine_per_gb"):
        if run.get(metric) is not None:
            shown.append(f"{metric} {run[metric]:.4g}")
    if run.get("limited_by"):
        shown.append(f"limited by {run['limited_by']}")
    return ", ".join(shown)


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    version = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "dpdk-dev"],
                             capture_output=True, text=True, check=False).stdout
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True,
                            text=True, check=False, cwd=ROOT).stdout.strip()
    return {"cpu": model.group(1) if model else os.uname().machine, "cpus": os.cpu_count(),
            "kernel": os.uname().release, "dpdk": version, "commit": commit}


def disturbance(runs):
    others, stolen = figures.disturbance(runs)
    if others > QUIET or stolen > QUIET:
        return (f"Other processes used up to {others:.2f} CPUs during a run, and the host took up "
                f"to {stolen:.2f}: measure again on a quiet machine.")
    return None


def end(number, _):
    # Once: a second one would interrupt what the first one has had begun, the cleaning up.
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def run(arguments):
    if os.cpu_count() < 2:
        raise SystemExit("bench: driver and back-end need a CPU each, this machine has one")
    patterns = [pattern for words in arguments.only for pattern in words.split(",")]
    try:
        chosen = rows.select(arguments.set, patterns)
    except ValueError as error:
        raise SystemExit(f"bench: {error}") from None
    if arguments.list:
        print("\n".join(row.name for row in chosen))
        return
    begin = time.monotonic()
    runs, failures, absent = measure_all(Laboratory(arguments, arguments.folder), chosen, arguments.rounds)
    result = {
        "machine": machine(), "failures": failures, "disturbance": disturbance(runs),
        "minutes": (time.monotonic() - begin) / 60,
        "options": {name: value for name, value in vars(arguments).items()
                    if name in ("set", "only", "rounds", "seconds", "warm_up", "idle_seconds",
                                "huge_pages", "testpmd_options")},
        "summary": [figures.summarize(row, runs, absent.get(row.name, {}))
                    for row in chosen], "runs": runs,
    }
    os.makedirs(os.path.dirname(os.path.abspath(arguments.json)), exist_ok=True)
    with open(arguments.json, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    for table in tables.parts(result["summary"]).values():
        print("\n" + table)
    if result["disturbance"]:
        print("\n" + result["disturbance"])
    if arguments.document:
        write_document(result)
    if failures:
        raise SystemExit("bench: not measured:\n  " + "\n  ".join(
            failure.splitlines()[0] for failure in failures))


def write_document(result):
    document.write(result, DOCUMENT, os.path.join(ROOT, "Tests/Gates/path-cost"))


def main():
    arguments = parse_arguments()
    if arguments.render:
        with open(arguments.render, encoding="utf-8") as file:
            write_document(json.load(file))
        return
    # By exception, so that every program of a measurement is ended on the way out.
    for number in SIGNALS:
        signal.signal(number, end)
    run(arguments)


if __name__ == "__main__":
    main()
