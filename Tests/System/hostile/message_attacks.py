"""Messages that stop half-way, make no sense, or whose replies nobody reads; floods."""

import os
import random
import select
import signal
import socket
import struct
import threading
import time

import frontend as fe
from frontend import FrontEnd, Gone
from target import (
    SOCKET, behaves, eventually, go_on, open_descriptors, settled_descriptors, stop, take_place)
from descriptor_attacks import others


def half_a_message():
    """A front-end that stops in the middle loses its place, and is no burden before."""
    for length in (1, 11, 12, 15):
        front = take_place()
        front.set_up()
        message = struct.pack("=III", fe.SET_FEATURES, 1, 8) + bytes(8)
        begin = time.monotonic()
        front.raw(message[:length], [front.rings[0].kick] * 8)
        assert front.passes(), "packets wait for a message"
        if length == 15:
            assert front.ends(), "it keeps its place for ever"
            assert time.monotonic() - begin > 2, "it had no time"
        front.close()


def silence():
    """One that says nothing at all keeps it only as long as nobody else wants it."""
    first = FrontEnd(SOCKET)
    time.sleep(5.2)
    # Refused as long as it comes too early: nobody knows when the daemon took up the first one.
    second = take_place()
    second.set_up()
    assert second.passes()
    assert first.ends()
    first.close()
    second.close()


def replies_not_read():
    front = take_place()
    front.set_up()
    try:
        for _ in range(1_000_000):
            front.send(fe.GET_FEATURES)
        raise AssertionError("replies are kept without end")
    except Gone:
        pass
    front.close()


def channel_not_read():
    """Calls go as messages over a channel that nobody reads."""
    front = take_place()
    front.negotiate(protocol=fe.MQ | fe.REPLY_ACK | fe.BACKEND_REQ | fe.INBAND)
    own, lent = socket.socketpair()
    lent.setblocking(True)
    assert front.tell(fe.SET_BACKEND_REQ_FD, b"", [lent.fileno()])
    front.set_memory()
    for index in (0, 1):
        front.rings[index] = fe.Ring(index)
        front.set_ring(fe.SET_VRING_NUM, index, fe.SIZE)
        front.set_addresses(front.rings[index])
        front.set_ring(fe.SET_VRING_ENABLE, index, 1)
    front.give_buffers(0)
    assert front.set_ring(fe.VRING_KICK, 0, 0)
    for _ in range(3000):
        front.transmit(1)
        assert front.set_ring(fe.VRING_KICK, 1, 0)
        while front.received(0) is not None:
            assert front.set_ring(fe.VRING_KICK, 0, 0)
    front.synchronize()
    own.setblocking(False)
    assert len(own.recv(1 << 20)) < 1000, "what is not read is kept"
    own.close()
    lent.close()
    front.close()


def nonsense(seed=1, messages=4000):
    """Requests, payloads and descriptors by chance, most of them nearly right."""
    chance = random.Random(seed)
    front = None
    kinds = [os.eventfd(0), os.memfd_create("x"), *others()]
    os.ftruncate(kinds[1], 1 << 20)
    for _ in range(messages):
        if front is None:
            front = FrontEnd(SOCKET)
            front.socket.setblocking(False)
        request = chance.choice([chance.randrange(45), chance.randrange(5, 19), chance.getrandbits(32)])
        size = chance.choice([0, 8, 8, 8, 20, 24, 40, chance.randrange(300)])
        numbers = [
            chance.choice([0, 1, 2, 3, 64, 1 << 12, 1 << 20, fe.USER, (1 << 64) - 1, chance.getrandbits(64)])
            for _ in range(size // 8 + 1)
        ]
        payload = struct.pack(f"={len(numbers)}Q", *numbers)[:size]
        header = struct.pack("=III", request, chance.choice([1, 1, 1, 9, 9, chance.getrandbits(4)]), size)
        count = chance.choice([0, 0, 1, 1, chance.randrange(9)])
        try:
            front.raw(header + payload, chance.choices(kinds, k=count))
            front.socket.recv(1 << 16)
        except BlockingIOError:
            pass
        except (Gone, ConnectionError, TimeoutError):
            front.close()
            front = None
    if front is not None:
        front.close()
    for descriptor in kinds:
        os.close(descriptor)


def flood(front, seconds, message):
    front.socket.setblocking(False)
    end = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < end:
        try:
            message()
            sent += 1
        except BlockingIOError:
            select.select([], [front.socket], [], 0.1)
    front.socket.settimeout(10)
    return sent


def message_flood():
    """Tables and rings set as fast as they are taken, while packets pass after all."""
    front = take_place()
    front.set_up(pairs=2)
    front.acknowledges = False
    flood(front, 1, lambda: front.set_memory())
    flood(front, 1, lambda: front.set_event(fe.SET_VRING_CALL, 1, front.rings[1].call))
    flood(front, 1, lambda: front.set_ring(fe.SET_VRING_ENABLE, 1, 1))
    front.close()


def message_flood_without_end():
    """Until the daemon is gone: its signals have to be heard meanwhile."""
    front = take_place()
    front.set_up(pairs=2)
    front.acknowledges = False
    print("floods", flush=True)
    try:
        flood(front, 20, lambda: front.set_memory())
    except (Gone, ConnectionError):
        pass


def kick_flood():
    """One pair is kicked without end, for nothing; the other's packets pass meanwhile. How many is the
    machine's business, but each one does: behind the flood there would be none."""
    front = take_place()
    front.set_up(pairs=2)
    under_way, tell = os.pipe()
    child = os.fork()
    if child == 0:
        # Longer than the attack may take.
        signal.alarm(40)
        kicks = 0
        while True:
            front.kick(front.rings[0])
            front.kick(front.rings[1])
            kicks += 1
            if kicks == 1000:
                os.write(tell, b"k")
    try:
        os.read(under_way, 1)
        begin, passed = time.monotonic(), 0
        while passed < 20 or time.monotonic() < begin + 1.5:
            assert front.passes(1, count=1), f"packet {passed} does not pass beside kicks"
            passed += 1
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the flood has ended"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.close(under_way)
    os.close(tell)
    front.close()


def connection_flood():
    """Others connect, and stay; the one that is served hears nothing of it."""
    front = take_place()
    front.set_up()
    before = settled_descriptors()
    waiting = []
    for _ in range(2000):
        other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        other.setblocking(False)
        try:
            other.connect(SOCKET)
            other.send(struct.pack("=III", fe.GET_FEATURES, 1, 0))
        except OSError:
            pass
        waiting.append(other)
        if len(waiting) % 100 == 0:
            eventually(lambda: open_descriptors() <= before + 2, "those who are refused are closed")
            assert front.passes(count=1)
    for other in waiting:
        other.close()
    eventually(lambda: open_descriptors() <= before, "those who were refused are closed")
    front.close()


def full_backlog():
    """Who comes when there is no place left to wait for the daemon is served in its turn."""
    stop()
    ahead = []
    try:
        while len(ahead) < 1000:
            other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            ahead.append(other)
            other.setblocking(False)
            other.connect(SOCKET)
    except BlockingIOError:
        pass
    finally:
        later = threading.Timer(0.5, go_on)
        later.start()
    assert len(ahead) < 1000, "the backlog is never full"
    for other in ahead:
        other.close()
    behaves()
    later.join()
