"""Rings that are impossible, or change while they are read."""

import os
import random
import select
import struct
import time

import frontend as fe
from target import eventually, take_place


def impossible_ring():
    """It stops, says so, and leaves the others alone."""
    front = take_place()
    front.set_up(pairs=2)
    ring = front.rings[1]
    for value in (1000, 5000):
        assert front.passes(1)
        front.write(ring.avail + 2, "<H", value)
        front.kick(ring)
        eventually(lambda: select.select([ring.error], [], [], 0)[0], "the error is signalled")
        os.eventfd_read(ring.error)
        assert front.passes(1)
        # Again: used->idx is where it goes on.
        front.write(ring.avail + 2, "<H", front.number_at(ring.used + 2))
        front.set_event(fe.SET_VRING_KICK, 1, ring.kick)
    # A ring that lies nowhere cannot even start.
    front.tell(
        fe.SET_VRING_ADDR,
        struct.pack("=IIQQQQ", 1, 0, fe.USER + fe.MEMORY, fe.USER, fe.USER, 0))
    eventually(lambda: select.select([ring.error], [], [], 0)[0], "the error is signalled")
    assert front.passes(1)
    front.close()


def scribble(seconds=1.5):
    """Everything that the device reads changes while it is read: rings, descriptors, headers."""
    for features in (fe.VERSION_1, fe.VERSION_1 | fe.RING_PACKED, fe.VERSION_1 | 1 << 28 | 1 << 29):
        front = take_place()
        front.set_up(pairs=2, features=features)
        end = time.monotonic() + seconds / 3
        chance = random.Random(features)
        while time.monotonic() < end:
            for _ in range(64):
                ring = front.rings[chance.randrange(4)]
                place = ring.base + chance.choice([0, 0, 0x1000, 0x2000]) + 2 * chance.randrange(40)
                front.write(place, "<H", chance.choice([0, 1, 2, 3, 4, 5, 7, 64, 0x8080, chance.getrandbits(16)]))
                front.write(
                    ring.base + 16 * chance.randrange(64), "<QIHH",
                    chance.choice([0, ring.base, ring.buffers, fe.MEMORY - 1, chance.getrandbits(64)]),
                    chance.choice([0, 1, 16, 64, 2048, 0xFFFF_FFFF, chance.getrandbits(20)]),
                    chance.choice([0, 1, 2, 3, 4, 5, 7, 0x80, 0x8000]), chance.randrange(70))
            used = [front.number_at(ring.used + 2) for ring in front.rings.values()]
            for ring, index in zip(front.rings.values(), used):
                front.write(ring.avail + 2, "<H", (index + chance.choice([1, 1, 2, 64])) & 0xFFFF)
                front.kick(ring)
            if chance.random() < 0.05:
                number = chance.randrange(4)
                front.set_event(fe.SET_VRING_KICK, number, front.rings[number].kick)
        front.close()
