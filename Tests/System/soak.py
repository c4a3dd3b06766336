"""Faults at random under mixed load, and what they must leave as it was.

Two guests, each with a daemon and a wire of its own:

  frames   DPDK's driver sends back what it receives; the far end numbers it. Its daemon is killed,
           loses its interface and its program, and is started anew by what stands for a service manager.
  stream   the kernel's TCP (`bench-driver tap`) exchanges blocks with the far end, each with its digest.
           Its daemon is never restarted: it is the one that must not grow.

A round is one fault at one guest, under load at both. Then packets must flow within a deadline; then a
count of frames must come back whole, or blocks arrive whole: what is lost outside of a fault is an error,
and so is anything that happens to the other guest. Between rounds each daemon is looked at.
"""

import argparse
import random
import statistics
import sys
import time

from soak_faults import FAULTS
from soak_guests import Frames, Stream
from soak_processes import Failure

# Of two medians of a daemon's own memory, in KiB; a leak of 1 KiB a round would be more in half an hour.
SLACK = 512


def main():
    arguments = parse()
    if arguments.list:
        for fault in FAULTS:
            print(f"{fault.name:34} {fault.guest}")
        return 0
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 31)
    length = f"{len(FAULTS)} faults" if arguments.once else f"{arguments.seconds:.0f} s"
    print(f"soak: {length}, seed {seed}", flush=True)
    guests = {}
    try:
        guests = {"frames": Frames(arguments), "stream": Stream(arguments)}
        return Soak(arguments, random.Random(seed), guests).run()
    except Failure as failure:
        print(f"soak: {failure}", file=sys.stderr)
        return 1
    finally:
        for guest in guests.values():
            guest.end()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--only", metavar="FAULT", help="one of them, again and again")
    parser.add_argument("--once", action="store_true", help="each fault once, however long it takes")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--list", action="store_true", help="print the faults and end")
    for name in ("name", "folder", "backend", "bench-driver"):
        parser.add_argument("--" + name, help=argparse.SUPPRESS)
    return parser.parse_args()


class Soak:
    def __init__(self, arguments, generator, guests):
        self.rounds = len(FAULTS) if arguments.once else None
        self.seconds = arguments.seconds
        self.generator = generator
        self.guests = guests
        self.faults = [fault for fault in FAULTS if arguments.only in (None, fault.name)]
        if not self.faults:
            raise Failure(f"no fault is called '{arguments.only}': --list prints their names")
        self.recoveries = {fault.name: [] for fault in self.faults}
        self.samples = {name: [] for name in guests}
        self.failures = []

    def run(self):
        # What happens once only, such as the first allocations of a kind, is no growth.
        for guest in self.guests.values():
            guest.await_flow()
            guest.verify()
        self.look()
        begin = time.monotonic()
        order = []
        rounds = 0
        while rounds < self.rounds if self.rounds else time.monotonic() < begin + self.seconds:
            if not order:
                # All of them in turns, so that a short run has each.
                order = self.generator.sample(self.faults, len(self.faults))
            fault = order.pop()
            rounds += 1
            try:
                self.round(fault)
            except Failure as failure:
                self.failures.append(f"round {rounds}, {fault.name}: {failure}")
                print(f"soak: {self.failures[-1]}", flush=True)
                if len(self.failures) >= 3:
                    break
                for guest in self.guests.values():
                    guest.renew()
            self.look()
        self.report(rounds, time.monotonic() - begin)
        return 1 if self.failures else 0

    def round(self, fault):
        guest = self.guests[fault.guest]
        others = [other for other in self.guests.values() if other is not guest]
        for each in self.guests.values():
            each.start_load()
        time.sleep(self.generator.uniform(0.1, 0.5))
        begin = time.monotonic()
        # What it took by itself, such as a pause, is no recovery.
        begin = fault.run(guest, self.generator) or begin
        guest.await_flow()
        self.recoveries[fault.name].append(time.monotonic() - begin)
        for other in others:
            other.check_load()
        for each in self.guests.values():
            each.stop_load()
        for each in self.guests.values():
            each.verify()

    def look(self):
        for name, guest in self.guests.items():
            end = time.monotonic() + 10
            sample = guest.sample()
            while sample["frames_in_use"] and time.monotonic() < end:
                time.sleep(0.1)
                sample = guest.sample()
            if sample["frames_in_use"]:
                self.failures.append(f"{name}: {sample['frames_in_use']} frames are in use at rest")
            self.samples[name].append(sample)

    def report(self, rounds, seconds):
        print(f"\n{rounds} faults in {seconds:.0f} s\n")
        print(f"{'fault':34} {'times':>5}  {'flows again after, median':>25}  {'longest':>8}")
        for name, times in self.recoveries.items():
            if times:
                print(f"{name:34} {len(times):5}  {statistics.median(times):23.3f} s  {max(times):6.3f} s")
        print()
        for guest in self.guests.values():
            print(guest.total())
        print(f"\n{'':10} {'':16} {'first quarter':>14} {'last quarter':>14}")
        for name, samples in self.samples.items():
            quarter = max(1, len(samples) // 4)
            for measure in samples[0]:
                first, last = (statistics.median(sample[measure] for sample in part)
                               for part in (samples[:quarter], samples[-quarter:]))
                print(f"{name:10} {measure:16} {first:14.0f} {last:14.0f}")
                # Of the other guest each daemon is a new one, and mappings meet by chance.
                # Of a thread that has ended stack and heap are kept.
                slack = {"own_kib": SLACK, "mappings": 4 if name == "stream" else 8}.get(measure, 0)
                if last > first + slack:
                    self.failures.append(f"{name}: {measure} grew from {first:.0f} to {last:.0f}")
        print()
        for failure in self.failures:
            print(f"FAILED: {failure}")
        if not self.failures:
            print(f"{rounds} of {rounds} faults survived, nothing lost, nothing grew")


if __name__ == "__main__":
    sys.exit(main())
