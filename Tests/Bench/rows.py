"""Every row that can be measured, and which of them each of the three benchmarks takes."""

import fnmatch
from dataclasses import dataclass

SIZES = (64, 512, 1024, 1500)
RINGS = ("split", "inorder", "packed")

PAIR = ("daemon", "testpmd")
WITH_FLOOR = ("daemon", "testpmd", "floor")
TCP = {"transmit": ("daemon", "lane-off", "offloads-off", "testpmd", "kernel"),
       "receive": ("daemon", "offloads-off", "testpmd", "kernel")}
POLLING = ("adaptive", "busy", "sleep", "testpmd", "wake-up")


@dataclass(frozen=True)
class Row:
    name: str
    scenario: str
    case: str
    contenders: tuple = PAIR
    size: int = 64
    ring: str = "split"
    mergeable: bool = True
    interface: str = ""
    load: str = "full"
    queues: int = 1
    daemons: int = 1
    entries: int = 256
    regions: int = 1
    # Rounds, unless fewer are asked for; 0: as many as asked for.
    most_rounds: int = 0


def data_path(case, size, ring, mergeable):
    name = f"{case}-{size}-{ring}" + ("" if mergeable else "-nomrg")
    return Row(name, "data-path", case, size=size, ring=ring, mergeable=mergeable)


def wire(case, interface, size, ring="split"):
    place = {"nic0": "veth", "sink0": "ifb"}[interface]
    name = f"{case}-{place}-{size}" + ("" if ring == "split" else f"-{ring}")
    contenders = WITH_FLOOR if ring == "split" else PAIR
    return Row(name, "wire", case, contenders, size, ring, interface=interface)


def quarter(case, size):
    return Row(f"{case}-veth-{size}-quarter", "load", case, size=size, interface="nic0",
               load="quarter")


def tcp(case, ring="split"):
    """One stream from a guest at native speed to the wire (transmit), or the other way."""
    if ring == "split":
        return Row(f"tcp-{case}", "tcp", case, TCP[case], interface="nic0")
    # relay.c has split rings only.
    others = tuple(name for name in TCP[case] if name != "kernel")
    return Row(f"tcp-{case}-{ring}", "tcp", case, others, ring=ring, interface="nic0")


def latency(ring="split", load="full"):
    name = "-".join(["latency", *[word for word in (ring, load) if word not in ("split", "full")]])
    return Row(name, "latency", "latency", POLLING, ring=ring, load=load)


def shape(kind, count, contenders=PAIR):
    """The driver's rings have `count` descriptors, or its memory that many regions."""
    return Row(f"{kind}-{count}", "shape", kind, contenders, **{kind: count})


def pairs(case, queues):
    return Row(f"{case}-64-queues-{queues}", "queues", case, queues=queues)


def daemons(count):
    return Row(f"daemons-{count}", "daemons", "daemons", interface="nic0", daemons=count)


IDLE = Row("idle", "idle", "idle", most_rounds=1)
START = Row("start", "start", "start")
# testpmd takes memory of 8 regions at most.
SHAPES = (
    shape("entries", 256), shape("entries", 4096), shape("regions", 509, ("daemon",)),
    shape("entries", 1024), shape("entries", 32768), shape("regions", 8),
    shape("regions", 64, ("daemon",)),
)
MEMORY = Row("memory", "memory", "memory", most_rounds=1)


def quick():
    return [
        *[data_path(case, size, "split", True)
          for case in ("null", "generate") for size in (64, 1500)],
        wire("transmit", "nic0", 64), wire("both", "nic0", 64), latency(), MEMORY,
        tcp("transmit"), tcp("receive"),
    ]


def usual():
    return [
        *[data_path(case, size, ring, True)
          for case in ("null", "generate") for size in (64, 1500) for ring in ("split", "packed")],
        *[wire("transmit", interface, size)
          for interface in ("nic0", "sink0") for size in (64, 1500)],
        *[wire(case, "nic0", size) for case in ("receive", "both") for size in (64, 1500)],
        *[wire("transmit", "nic0", size, "packed") for size in (64, 1500)],
        quarter("receive", 64), quarter("both", 64),
        latency(), IDLE, START, MEMORY,
        *[pairs(case, 2) for case in ("null", "generate")],
        daemons(2), daemons(8), *SHAPES[1:3], tcp("transmit"), tcp("receive"),
    ]


def full():
    return [
        *[data_path(case, size, ring, mergeable)
          for case in ("null", "generate") for size in SIZES for ring in RINGS
          for mergeable in (True, False)],
        *[wire(case, interface, size, ring)
          for case, interface in (("transmit", "nic0"), ("transmit", "sink0"), ("receive", "nic0"),
                                  ("both", "nic0"))
          for size in SIZES for ring in ("split", "packed")],
        *[quarter(case, size) for case in ("receive", "both") for size in (64, 1500)],
        latency(), latency("packed"), latency(load="paced"), IDLE, START, MEMORY,
        *[pairs(case, queues) for case in ("null", "generate") for queues in (1, 2)],
        *[daemons(count) for count in (1, 2, 4, 8)], *SHAPES,
        *[tcp(case, ring) for case in ("transmit", "receive") for ring in ("split", "packed")],
    ]


SETS = {"quick": quick, "usual": usual, "full": full}


def select(name, patterns=()):
    """The rows of a set; or, with patterns, those of all rows whose name matches one."""
    if not patterns:
        return SETS[name]()
    every = list(dict.fromkeys(full() + usual() + quick()))
    chosen = [row for row in every
              if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in patterns)]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(row.name, pattern) for row in every):
            raise ValueError(f"no row is called '{pattern}': --list prints their names")
    return chosen
