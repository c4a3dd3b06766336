#!/usr/bin/env python3
"""Writes inputs for the fuzzers that mutation alone hardly finds: sessions with rings that run,
packets that merge, states that are accepted.  What libFuzzer makes of them is in Tests/Fuzz/corpus.

    seeds.py FOLDER        writes FOLDER/TARGET/seed-NAME for each
"""
import os
import struct
import sys


# message-fuzz: writes of [descriptors and their kind, request, flags, length, payload...]

FILE, PIPE, STATE, SOCKET = range(4)
FRONT_END = 0x7F0000000000
VERSION_1, PROTOCOL, PLATFORM, LOG_ALL, PACKED = (1 << bit for bit in (32, 30, 33, 26, 34))
# All but INBAND_NOTIFICATIONS and GPA_ADDRESSES.
USUAL = sum(1 << bit for bit in (0, 1, 2, 3, 4, 5, 8, 9, 12, 13, 15, 16, 19, 20))
INBAND, GPA = 1 << 14, 1 << 21


def message(request, payload=b"", descriptors=0, kind=FILE, flags=8):
    size = len(payload)
    length = size if size < 240 else 240 + (size - 240 + 3) // 4
    payload += bytes((size if size < 240 else 240 + 4 * (length - 240)) - size)
    return bytes([descriptors | kind << 4, request, flags, length]) + payload


def number(request, value, **more):
    return message(request, struct.pack("<Q", value), **more)


def state(request, ring, value):
    return message(request, struct.pack("<II", ring, value))


def table(count=1):
    payload = struct.pack("<II", count, 0)
    for i in range(count):
        payload += struct.pack("<QQQQ", i << 16, 1 << 16, FRONT_END + (i << 16), i << 16)
    return message(5, payload, descriptors=count)


def region(request, slot=8, descriptors=1):
    place = slot << 16
    return message(
        request, struct.pack("<QQQQQ", 0, place, 1 << 16, FRONT_END + place, 0), descriptors)


def addresses(ring, base=FRONT_END, flags=0):
    at = base + 0x1000 * ring
    return message(9, struct.pack("<IIQQQQ", ring, flags, at, at + 0x800, at + 0x400, 0x1000))


def events(ring):
    return b"".join(number(request, ring, descriptors=1, kind=PIPE) for request in (13, 14, 12))


def ring(index, base=FRONT_END, flags=0, size=16, kick=True):
    parts = state(8, index, size) + addresses(index, base, flags) + state(10, index, 0)
    return parts + (events(index) if kick else b"") + state(18, index, 1)


def opening(features=VERSION_1 | PROTOCOL, protocol=USUAL):
    return (message(1) + number(2, features) + message(15) + number(16, protocol) + message(17)
            + message(3) + message(36))


def iotlb(at, size, permission, kind):
    return message(22, struct.pack("<QQQBB6x", at, size, FRONT_END + at, permission, kind))


def configuration(request, offset, size, flags=0):
    return message(request, struct.pack("<III", offset, size, flags) + bytes(size))


def inflight(request, size, queues=2, entries=16, descriptors=0):
    return message(request, struct.pack("<QQHHI", size, 0, queues, entries, 0), descriptors)


def message_seeds():
    start = opening() + table() + ring(0) + ring(1)
    again = (message(1) + number(2, VERSION_1 | PROTOCOL) + message(3) + message(15)
             + number(16, USUAL) + message(17) + message(36) + number(39, 15) + message(40))
    yield "everything", (
        start + again + table(2) + ring(0) + number(19, 0x010203040506) + number(20, 1400)
        + message(21, descriptors=1, kind=SOCKET)
        + configuration(24, 0, 256) + configuration(25, 0, 6) + configuration(25, 6, 6, 1)
        + region(37) + region(38, descriptors=0) + state(11, 0, 0) + message(4))
    yield "in-flight", (
        start + inflight(31, 0) + inflight(32, 1 << 12, descriptors=1) + state(11, 0, 0) + events(0)
        + message(34))
    yield "in-flight-packed", (
        opening(VERSION_1 | PROTOCOL | PACKED) + table() + inflight(31, 0)
        + inflight(32, 1 << 14, descriptors=1) + ring(0) + ring(1, size=7) + state(11, 1, 0))
    yield "log", (
        start + message(7, descriptors=1, kind=PIPE)
        + message(6, struct.pack("<QQ", 4096, 0), descriptors=1)
        + number(2, VERSION_1 | PROTOCOL | LOG_ALL) + addresses(0, flags=1) + number(2, VERSION_1))
    parts = [(part, 0x1000, 3, 2) for part in (0, 0x1000)]
    yield "iommu", (
        opening(VERSION_1 | PROTOCOL | PLATFORM) + message(21, descriptors=1, kind=SOCKET) + table()
        + ring(0, base=0) + ring(1, base=0) + b"".join(iotlb(*part) for part in parts)
        + iotlb(0x5000, 0x1000, 1, 2) + iotlb(0x5000, 0x1000, 1, 3) + iotlb(0, 0x1000, 3, 3)
        + state(11, 1, 0))
    yield "state", (
        opening() + table() + message(42, struct.pack("<II", 0, 0), 1, PIPE) + message(43)
        + message(42, struct.pack("<II", 1, 0), 1, STATE) + message(43) + ring(0)
        + message(42, struct.pack("<II", 1, 0), 1, STATE) + message(43))
    yield "postcopy", (
        start + message(28) + message(29) + table() + message(5, bytes(8)) + region(37)
        + number(37, 0) + message(30))
    yield "inband", (
        opening(protocol=USUAL | INBAND) + message(21, descriptors=1, kind=SOCKET) + table()
        + ring(0, kick=False) + state(35, 0, 0) + state(35, 0, 0) + number(16, USUAL))
    yield "guest-addresses", (
        opening(protocol=USUAL | GPA) + table() + ring(0, base=0) + ring(1, base=0) + message(34))
    yield "control-queue", start + ring(4) + message(34) + number(39, 0)
    yield "bytes", (
        bytes([0x80, 6, 1, 0, 0, 0, 1, 0]) + bytes([0x80, 4, 0, 0, 0, 0])
        + bytes([0x81, 12, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9]))


# Packets

def internet(transport, payload, v6=False, port=1000):
    tcp = transport == 6
    length = (20 if tcp else 8) + len(payload)
    head = bytes([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1])
    if v6:
        head += b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, length, transport, 64)
        head += bytes([0xFD] + [0] * 14 + [1]) + bytes([0xFD] + [0] * 14 + [2])
    else:
        head += b"\x08\x00" + struct.pack(
            ">BBHHHBBH4B4B", 0x45, 0, 20 + length, 7, 0x4000, 64, transport, 0,
            10, 0, 0, 1, 10, 0, 0, 2)
    if tcp:
        return head + struct.pack(
            ">HHIIBBHHH", port, 2000, 1, 1, 0x50, 0x10, 512, 0, 0) + payload
    return head + struct.pack(">HHHH", port, 2000, length, 0) + payload


def offload_seeds():
    for name, transport, v6, kind, offset in (
            ("tcp4", 6, False, 1, 16), ("tcp6", 6, True, 4, 16),
            ("udp4", 17, False, 5, 6), ("udp6", 17, True, 5, 6)):
        packet = internet(transport, bytes(range(200)), v6)
        start = 54 if v6 else 34
        head = start + (20 if transport == 6 else 8)
        for what, gso, size in (("checksum", 0, 0), ("segments", kind, 64)):
            header = struct.pack("<BBHHHHH", 1, gso, head, size, start, offset, 0)
            yield f"{name}-{what}", header + packet
            tagged = packet[:12] + b"\x81\x00\x00\x05" + packet[12:]
            header = struct.pack("<BBHHHHH", 1, gso, head + 4, size, start + 4, offset, 0)
            yield f"{name}-{what}-tagged", header + tagged


def merge_seeds():
    for name, transport, v6 in (
            ("tcp4", 6, False), ("tcp6", 6, True), ("udp4", 17, False), ("udp6", 17, True)):
        packet = internet(transport, bytes(range(100)), v6)
        run = bytes([len(packet), 0x80]) + packet
        yield name, bytes([31]) + run + bytes([0, 0xC1]) * 6
        other = internet(transport, bytes(range(100)), v6, port=1001)
        yield f"{name}-two-flows", (
            bytes([31]) + run + bytes([0, 0xC1]) * 2 + bytes([len(other), 0x80]) + other
            + bytes([0, 0xC1]) * 3)


# inflight-fuzz: choice, shape, offset, content and its length, base, ring, changes

def area(choice, shape, content, ring_bytes=b"", changes=b"", base=0):
    return (bytes([choice, shape, 3]) + struct.pack("<H", len(content)) + content
            + struct.pack("<I", base) + bytes([len(ring_bytes)]) + ring_bytes + changes)


def inflight_seeds():
    change = struct.pack("<HB", 0x8000 | 17, 1) + struct.pack("<HB", 0x8000 | 12, 3)
    # A split ring of 2: descriptors at 16, available ring at 50, used ring at 68.
    split = bytearray(80)
    split[16 + 8] = 16
    split[52] = 2
    split[54] = 1
    yield "split-new", area(2, 0x22, b"", bytes(split), change)
    header = struct.pack("<QHHHH", 0, 1, 2, 0, 0)
    entry = [struct.pack("<B5xHQ", 1, 0, counter) for counter in (5, 4)]
    yield "split-in-flight", area(2, 0x32, header + entry[0] + entry[1], bytes(split), change)
    yield "split-next", area(2, 0x32, header + bytes(16) + entry[1], bytes(split), change)
    published = bytearray(split)
    published[70] = 1
    yield "split-batch", area(2, 0x32, header + entry[0] + entry[1], bytes(published))
    yield "split-other-size", area(2, 0x24, b"", bytes(split))
    yield "other-format", area(0xF2, 0x22, b"", bytes(split))
    # A packed ring of 3: descriptors at 16.
    packed = bytearray(64)
    for slot in range(2):
        packed[16 + 16 * slot + 8] = 16
        packed[16 + 16 * slot + 14] = 0x80
    yield "packed-new", area(3, 0x22, b"", bytes(packed), change, base=0x80008000)
    header = struct.pack("<QHHHHHHBB6x", 0, 1, 3, 0, 0, 0, 0, 1, 1)
    free = [struct.pack("<BxHHHQHHIQ", 0, i + 1, 0, 0, 0, 0, 0, 0, 0) for i in range(3)]
    yield "packed-quiet", area(3, 0x32, header + b"".join(free), bytes(packed), change)
    header = struct.pack("<QHHHHHHBB6x", 0, 1, 3, 3, 3, 0, 0, 1, 1)
    taken = [
        struct.pack("<BxHHHQHHIQ", 1, i + 1, i, 1, 9 - i, i, 0, 32, 0x100) for i in range(2)]
    yield "packed-in-flight", area(
        3, 0x32, header + b"".join(taken) + free[2], bytes(packed), change)
    header = struct.pack("<QHHHHHHBB6x", 0, 1, 3, 0, 2, 2, 0, 1, 1)
    yield "packed-batch", area(3, 0x32, header + b"".join(taken) + free[2], bytes(packed))
    done = bytearray(packed)
    done[16 + 15] = 0x80
    yield "packed-published", area(3, 0x32, header + b"".join(taken) + free[2], bytes(done))


# chain-fuzz: four bytes that choose ring, capacity and what is offered, and memory from address 0 on

def chain_seeds():
    # A split ring of 4: descriptors at 16, available ring at 82 (all zeros: head 0).
    for name, flags in (("readable", 0), ("writable", 2)):
        memory = bytearray(0x420)
        memory[16:32] = struct.pack("<QIHH", 0x400, 32, 4, 0)
        memory[0x400:0x420] = (
            struct.pack("<QIHH", 0x800, 64, flags | 1, 1) + struct.pack("<QIHH", 0x1000, 9, flags, 0))
        yield f"split-table-{name}", bytes([8, 3, 1, 0]) + memory
        # A packed ring of 3: descriptors at 16.
        memory[0x400:0x420] = (
            struct.pack("<QIHH", 0x800, 64, 0, flags) + struct.pack("<QIHH", 0x1000, 9, 0, flags))
        memory[16:32] = struct.pack("<QIHH", 0x400, 32, 0, 4)
        yield f"packed-table-{name}", bytes([137, 3, 0, 2]) + memory


# configuration-fuzz

def control_state(offloads=None, unicast=(), multicast=()):
    body = struct.pack("<B6sHHHH", 1 if offloads is None else 2, b"\x02\0\0\0\0\1", 1, 2,
                       len(unicast), len(multicast))
    body += b"".join(unicast) + b"".join(multicast) + bytes(512)
    return body + (b"" if offloads is None else struct.pack("<Q", offloads))


def sealed(body, pairs=2, features=VERSION_1):
    state_bytes = b"VUXSTATE" + struct.pack("<IIQI", 1, pairs, features, len(body)) + body
    return state_bytes + bytes(8)


def commands():
    yield "promiscuous", b"\0\0\1"
    yield "all-multicast", b"\0\1\1"
    yield "no-broadcast", b"\0\5\1"
    yield "tables", (
        b"\1\0" + struct.pack("<I", 1) + b"\2\0\0\0\0\7" + struct.pack("<I", 1) + b"\3\0\0\0\0\7")
    yield "address", b"\1\1\2\0\0\0\0\2"
    yield "vlan", b"\2\0\5\0"
    yield "no-vlan", b"\2\1\5\0"
    yield "announced", b"\3\0"
    yield "pairs", b"\4\0\1\0"
    yield "offloads", b"\5\0" + struct.pack("<Q", 1 << 1)


def configuration_seeds():
    for name, command in commands():
        yield f"command-{name}", b"\0\xff" + command
    unicast, multicast = (b"\2\0\0\0\0\7",), (b"\3\0\0\0\0\7",)
    yield "state", b"\1\0" + control_state(unicast=unicast, multicast=multicast)
    yield "state-offloads", b"\1\0" + control_state(offloads=2)
    yield "envelope", b"\1\3" + sealed(control_state(unicast=unicast))
    steps = b"".join(
        bytes([0x20 | pieces << 3, len(command)]) + command
        for pieces, (_, command) in zip((0, 1, 2, 3) * 3, commands()))
    yield "device-commands", b"\2\0\xff" + steps
    yield "device-steered", b"\2\1\xff" + steps
    yield "device-few-features", b"\2\0\x21" + steps
    yield "device-unanswered", b"\2\0\xff" + bytes([0, 3, 0, 0, 1])
    space = bytes([3 | 8, 0, 6]) + b"\2\0\0\0\0\2" + bytes([3, 0, 6]) + b"\2\0\0\0\0\2"
    space += bytes([4, 0, 0, 0, 1]) + bytes([4, 0xFF, 0, 9, 0])
    yield "device-space", b"\2\0\xff" + space
    saved = control_state(offloads=2)
    new = bytes([5 | 8]) + struct.pack("<H", len(saved)) + saved
    yield "device-state", b"\2\0\xff" + new + bytes([5, 5 | 0x10, 1, 0, 1]) + steps
    yield "device-reset", b"\2\0\xff" + bytes([7, 15, 23, 31, 55, 6, 0x0F]) + steps
    loose = struct.pack("<HHBB", 64, 32, 0, 0) * 4
    yield "device-ring", b"\2\0\xff" + bytes([2]) + loose + bytes([0, 1, 2, 3, 4])
    yield "device-broken-ring", b"\2\0\xff" + bytes([2]) + loose + bytes([0, 0, 0, 0, 31])


def main():
    for target, seeds in (
            ("chain-fuzz", chain_seeds), ("message-fuzz", message_seeds), ("offload-fuzz", offload_seeds),
            ("merge-fuzz", merge_seeds), ("inflight-fuzz", inflight_seeds),
            ("configuration-fuzz", configuration_seeds)):
        folder = os.path.join(sys.argv[1], target)
        os.makedirs(folder, exist_ok=True)
        for name, content in seeds():
            with open(os.path.join(folder, f"seed-{name}"), "wb") as file:
                file.write(content)


if __name__ == "__main__":
    main()
