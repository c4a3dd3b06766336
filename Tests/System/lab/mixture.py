#!/usr/bin/env python3
"""A vhost-user front-end and its driver, which transmit good packets and every kind of bad one.

    mixture.py SOCKET

It transmits without end. To the first line on its standard input it begins to give receive buffers;
to the second it stops, and prints how many chains of each kind the device has returned, and how many
packets it has received. It leaves when its standard input ends.
"""
import json
import mmap
import os
import random
import select
import socket
import struct
import sys
import time

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_NUM, SET_ADDRESSES, SET_BASE, GET_BASE, SET_KICK, SET_CALL = 8, 9, 10, 11, 12, 13
CSUM, HOST_TSO4, VERSION_1 = 1 << 0, 1 << 11, 1 << 32
SIZE = 256
SLOT = 8192
MEMORY = 8 << 20
BASE = 0x7F0000000000

HEADER = bytes(12)
LINK = b"\xff" * 6 + b"\x02\0\0\0\0\x02"


def tcp(payload):
    """An IPv4 packet to be cut; what is summed is filled in by the device."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40 + payload, 1, 0x4000, 64, 6, 0,
                     bytes([10, 77, 0, 2]), bytes([10, 77, 0, 9]))
    return LINK + b"\x08\0" + ip + struct.pack("!HHIIBBHHH", 9, 9, 1, 1, 0x50, 0x10, 99, 0, 0) \
        + bytes(payload)


def offload(gso_type, gso_size):
    return struct.pack("<BBHHHHH", 1, gso_type, 54, gso_size, 34, 16, 0)


# Name, bytes of the chain, segments that leave.
KINDS = [
    ("good", HEADER + LINK + b"\x88\xb5" + bytes(46), 1),
    ("good", HEADER + LINK + b"\x88\xb5" + bytes(1400), 1),
    ("cut", offload(1, 1000) + tcp(3500), 4),
    ("malformed_chain", None, 0),
    ("too_short", bytes(20), 0),
    ("too_long", HEADER + LINK + bytes(5000), 0),
    ("bad_header", offload(3, 1000) + tcp(3500), 0),
    ("bad_offload", offload(1, 0) + tcp(3500), 0),
    ("too_many_segments", offload(1, 1) + tcp(600), 0),
]


class Ring:
    def __init__(self, memory, base):
        self.memory, self.base, self.seen, self.offered = memory, base, 0, 0
        self.kick, self.call = os.eventfd(0), os.eventfd(0)
        # Indices are stored and loaded in one go, as struct does not: it stores 0 first.
        self.words = memoryview(memory).cast("H")

    def addresses(self):
        return [BASE + self.base + part for part in (0, 0x2000, 0x1000)]

    def offer(self, slot, address, length, flags):
        struct.pack_into("<QIHH", self.memory, self.base + 16 * slot, address, length, flags, 0)
        entry = self.base + 0x1004 + 2 * (self.offered % SIZE)
        struct.pack_into("<H", self.memory, entry, slot)
        self.offered += 1

    def publish(self):
        self.words[(self.base + 0x1002) // 2] = self.offered & 0xFFFF
        os.eventfd_write(self.kick, 1)

    def used(self):
        """The heads that came back."""
        index = self.words[(self.base + 0x2002) // 2]
        while self.seen & 0xFFFF != index:
            entry = self.base + 0x2004 + 8 * (self.seen % SIZE)
            self.seen += 1
            yield struct.unpack_from("<I", self.memory, entry)[0]


def connect(path, file, rings):
    front = socket.socket(socket.AF_UNIX)
    front.connect(path)

    def send(request, payload=b"", files=()):
        message = struct.pack("<III", request, 1, len(payload)) + payload
        socket.send_fds(front, [message], files)

    send(GET_FEATURES)
    offered = struct.unpack("<IIIQ", front.recv(20, socket.MSG_WAITALL))[3]
    send(SET_OWNER)
    send(SET_FEATURES, struct.pack("<Q", offered & (CSUM | HOST_TSO4 | VERSION_1)))
    send(SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, 0, MEMORY, BASE, 0), [file])
    for index, ring in enumerate(rings):
        send(SET_NUM, struct.pack("<II", index, SIZE))
        send(SET_BASE, struct.pack("<II", index, 0))
        send(SET_ADDRESSES, struct.pack("<IIQQQQ", index, 0, *ring.addresses(), 0))
        send(SET_CALL, struct.pack("<Q", index), [ring.call])
        send(SET_KICK, struct.pack("<Q", index), [ring.kick])
    send(GET_FEATURES)
    front.recv(20, socket.MSG_WAITALL)
    return front


def lines_that_wait():
    """How many, also of those that came while this process stood still; all, when nobody writes any more."""
    if not select.select([0], [], [], 0)[0]:
        return 0
    data = os.read(0, 4096)
    return data.count(b"\n") if data else 2


def stop(front, index):
    """Once it is answered the device returns nothing more to the ring."""
    front.sendall(struct.pack("<IIIII", GET_BASE, 1, 8, index, 0))
    front.recv(20, socket.MSG_WAITALL)


def main():
    file = os.memfd_create("guest")
    os.ftruncate(file, MEMORY)
    memory = mmap.mmap(file, MEMORY)
    receive, transmit = rings = [Ring(memory, 0x10000), Ring(memory, 0x20000)]
    front = connect(sys.argv[1], file, rings)
    print("connected", flush=True)
    random.seed(1)
    totals = {name: 0 for name, _, _ in KINDS} | {"segments": 0, "received": 0}
    kinds = {}
    free = list(range(SIZE))
    lines = 0
    while lines < 2:
        while free:
            slot = free.pop()
            kinds[slot] = kind = random.choice(KINDS)
            address = 0x100000 + slot * SLOT
            if kind[1] is None:
                transmit.offer(slot, 1 << 40, 100, 0)
            else:
                memory[address:address + len(kind[1])] = kind[1]
                transmit.offer(slot, address, len(kind[1]), 0)
        transmit.publish()
        for slot in transmit.used():
            totals[kinds[slot][0]] += 1
            totals["segments"] += kinds[slot][2]
            free.append(slot)
        back = list(receive.used())
        totals["received"] += len(back)
        if lines > 0:
            for slot in back if back or receive.offered else range(SIZE):
                receive.offer(slot, 0x400000 + slot * SLOT, 2048, 2)
            receive.publish()
        lines += lines_that_wait()
    while transmit.seen != transmit.offered:
        for slot in transmit.used():
            totals[kinds[slot][0]] += 1
            totals["segments"] += kinds[slot][2]
        time.sleep(0.01)
    # What is on its way to a buffer is there then, or will not come.
    stop(front, 0)
    totals["received"] += len(list(receive.used()))
    print("totals", json.dumps(totals), flush=True)
    sys.stdin.read()
    front.close()


main()
