#!/usr/bin/env python3
"""Packets per second through a vhost-user back-end: this project's daemon (A) against
dpdk-testpmd with net_vhost and net_af_xdp (B), alternating, on the same wire.

The front-end is always DPDK's virtio-user in testpmd: it has one CPU to itself, the back-end's data
path has another. Each measurement starts both afresh, lets traffic run for a while, and then counts
over a window:

  transmit   the driver sends as fast as it can; counted is what the far end of the veth got
  null       the driver sends, the back-end drops (A: --interface=null:, B: rxonly); counted is what
             the driver sent
  generate   the back-end makes packets (A: --interface=generate:SIZE, B: txonly); counted is what
             the driver received

bench.sh prepares the namespaces and starts this in the far one.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

FAR_COUNTERS = "/sys/class/net/peer0/statistics/"
BACKEND_CPU, FRONTEND_CPU = 0, 1


class Program:
    """A process with its output in a file, and its input open for commands."""

    def __init__(self, name, arguments, folder):
        self.name = name
        self.log = os.path.join(folder, name + ".log")
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True)

    @property
    def output(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def wait_until(self, what, condition, seconds=15):
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                state = "ended" if self.process.poll() is not None else "is too slow"
                raise SystemExit(
                    f"bench: {self.name} {state} before {what}\n{self.output[-2000:]}")
            time.sleep(0.01)

    def command(self, line, answer):
        """Gives it a line of input; returns what it prints, up to and with `answer`."""
        before = len(self.output)
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        self.wait_until(f"it answered '{line}'", lambda: answer in self.output[before:])
        return self.output[before:]

    def cpu_seconds(self):
        """User and system time of all its threads so far."""
        total = 0
        for thread in os.listdir(f"/proc/{self.process.pid}/task"):
            with open(f"/proc/{self.process.pid}/task/{thread}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
        return total / 1e9

    def end(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.process.pid, number)
            try:
                self.process.wait(3)
                break
            except subprocess.TimeoutExpired:
                continue
        self.process.stdin.close()


def testpmd(cpu, prefix, devices, options):
    """testpmd's command line: one lcore reads commands and sleeps, one forwards; both on `cpu`."""
    return [
        "stdbuf", "-oL", "dpdk-testpmd", f"--lcores=0@{cpu},1@{cpu}", "--no-huge", "-m", "512",
        "--no-pci", f"--file-prefix={prefix}", *[f"--vdev={device}" for device in devices],
        "--", "-i", "--total-num-mbufs=16384", *options,
    ]


class Bench:
    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.folder = folder
        self.socket = os.path.join(folder, "sock")
        self.prefix = f"bench{os.getpid()}"

    def daemon(self, case, size):
        """A: how the daemon serves `case`."""
        port = {
            "transmit": ["--interface=nic0", "--dedicated"],
            "null": ["--interface=null:"],
            "generate": [f"--interface=generate:{size}"],
        }[case]
        return [self.arguments.backend, f"--socket-path={self.socket}", f"--cpus={BACKEND_CPU}",
                *port]

    def reference(self, case, size):
        """B: how testpmd serves `case`."""
        devices = [f"net_vhost0,iface={self.socket}"]
        options = ["--auto-start"]
        if case == "transmit":
            devices.append("net_af_xdp0,iface=nic0")
            options.append("--forward-mode=io")
        elif case == "null":
            options.append("--forward-mode=rxonly")
        else:
            options += ["--forward-mode=txonly", f"--txpkts={size}"]
        return testpmd(BACKEND_CPU, self.prefix + "b", devices, options)

    def measure(self, backend, case, size):
        command = self.daemon(case, size) if backend == "A" else self.reference(case, size)
        server = Program("backend", ["ip", "netns", "exec", self.arguments.near, *command],
                         self.folder)
        driver = None
        try:
            server.wait_until("it listened", lambda: os.path.exists(self.socket))
            time.sleep(0.3)
            mode = "rxonly" if case == "generate" else "txonly"
            driver = Program("driver", testpmd(
                FRONTEND_CPU, self.prefix + "f",
                [f"net_virtio_user0,path={self.socket},{self.arguments.device}"],
                [f"--forward-mode={mode}"] + ([f"--txpkts={size}"] if mode == "txonly" else [])),
                self.folder)
            driver.wait_until("it was ready", lambda: "testpmd> " in driver.output)
            arrived_before = far("rx_packets")
            driver.command("start", "packets/burst")
            time.sleep(self.arguments.warm_up)

            begin = self.sample(driver, server, case)
            time.sleep(self.arguments.seconds)
            end = self.sample(driver, server, case)
            count, cpu, elapsed = (after - before for before, after in zip(begin, end))

            sent = total(driver.command("stop", "\nDone."), "TX-packets")
            time.sleep(0.2)
            run = {
                "backend": backend, "case": case, "size": size, "seconds": elapsed,
                "packets": count, "packets_per_second": count / elapsed,
                "cpu_nanoseconds_per_packet": cpu / count * 1e9 if count else None,
            }
            if case == "transmit":
                run["lost"] = sent - (far("rx_packets") - arrived_before)
            return run
        finally:
            if driver:
                driver.end()
            server.end()
            if os.path.exists(self.socket):
                os.unlink(self.socket)
            subprocess.run(["rm", "-rf", f"/run/dpdk/{self.prefix}b", f"/run/dpdk/{self.prefix}f"],
                           check=False)

    def sample(self, driver, server, case):
        """Packets so far, the back-end's CPU seconds so far, and the time."""
        if case == "transmit":
            count = far("rx_packets")
        else:
            text = driver.command("show port stats 0", "Tx-bps:")
            count = total(text, "RX-packets" if case == "generate" else "TX-packets")
        return count, server.cpu_seconds(), time.monotonic()


def far(counter):
    with open(FAR_COUNTERS + counter, encoding="ascii") as file:
        return int(file.read())


def total(text, label):
    """The last number after `label` in what testpmd printed."""
    return int(re.findall(label + r": *(\d+)", text)[-1])


def summarize(runs, case, size):
    summary = {"case": case, "size": size}
    for backend in "AB":
        of_backend = [run for run in runs
                      if (run["backend"], run["case"], run["size"]) == (backend, case, size)]
        rates = [run["packets_per_second"] for run in of_backend]
        summary[backend] = {
            "median": statistics.median(rates), "minimum": min(rates), "maximum": max(rates),
            "cpu_nanoseconds_per_packet": statistics.median(
                run["cpu_nanoseconds_per_packet"] or 0 for run in of_backend),
            "lost": sum(run.get("lost", 0) for run in of_backend),
        }
    reference = summary["B"]["median"]
    summary["ratio"] = summary["A"]["median"] / reference if reference else None
    return summary


def table(summaries):
    def column(value):
        return f"{value['median'] / 1e6:.3f} ({value['minimum'] / 1e6:.3f}-{value['maximum'] / 1e6:.3f})"

    lines = [
        "| case | bytes | daemon, Mpps: median (min-max) | testpmd, Mpps: median (min-max) | ratio "
        "| CPU ns per packet: daemon | testpmd |",
        "|---|---|---|---|---|---|---|",
    ]
    for summary in summaries:
        ratio = summary["ratio"]
        lines.append(
            f"| {summary['case']} | {summary['size']} | {column(summary['A'])} "
            f"| {column(summary['B'])} | {'-' if ratio is None else format(ratio, '.2f')} "
            f"| {summary['A']['cpu_nanoseconds_per_packet']:.0f} "
            f"| {summary['B']['cpu_nanoseconds_per_packet']:.0f} |")
    return "\n".join(lines)


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    version = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "dpdk"], capture_output=True,
                             text=True, check=False).stdout
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True,
                            text=True, check=False, cwd=os.path.dirname(__file__)).stdout.strip()
    return {"cpu": model.group(1) if model else os.uname().machine, "cpus": os.cpu_count(),
            "kernel": os.uname().release, "dpdk": version, "commit": commit}


def parse_arguments():
    parser = argparse.ArgumentParser(description="vhost-user-xdp against dpdk-testpmd")
    parser.add_argument("--backend", required=True, help="the daemon's binary")
    parser.add_argument("--near", required=True, help="the namespace with nic0")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default 5)")
    parser.add_argument("--seconds", type=float, default=2, help="window of one (default 2)")
    parser.add_argument("--warm-up", type=float, default=0.5, help="before the window (default 0.5)")
    parser.add_argument("--cases", default="transmit,null,generate", help="which (default all)")
    parser.add_argument("--sizes", default="64,512,1024,1500",
                        help="bytes of a packet; null and generate take the first and the last")
    parser.add_argument("--device", default="mrg_rxbuf=1,packed_vq=0",
                        help="more arguments of net_virtio_user")
    parser.add_argument("--json", default=".build/bench.json", help="file for the result")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if os.cpu_count() < 2:
        raise SystemExit("bench: driver and back-end need a CPU each, this machine has one")
    sizes = [int(size) for size in arguments.sizes.split(",")]
    plan = []
    for case in arguments.cases.split(","):
        plan += [(case, size) for size in (
            sizes if case == "transmit" else sorted({sizes[0], sizes[-1]}))]

    runs = []
    with tempfile.TemporaryDirectory(prefix="vux-bench.") as folder:
        bench = Bench(arguments, folder)
        for number in range(arguments.rounds):
            for case, size in plan:
                for backend in "AB" if number % 2 == 0 else "BA":
                    run = bench.measure(backend, case, size)
                    runs.append({"round": number + 1, **run})
                    print(f"round {number + 1}: {case} {size} {backend} "
                          f"{run['packets_per_second'] / 1e6:.3f} Mpps", file=sys.stderr)

    summaries = [summarize(runs, case, size) for case, size in plan]
    os.makedirs(os.path.dirname(os.path.abspath(arguments.json)), exist_ok=True)
    with open(arguments.json, "w", encoding="utf-8") as file:
        json.dump({"machine": machine(), "options": vars(arguments), "summary": summaries,
                   "runs": runs}, file, indent=1)
    print(table(summaries))


if __name__ == "__main__":
    main()
