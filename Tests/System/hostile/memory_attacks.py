"""Memory that goes away, and pages that never come."""

import os
import random
import select
import struct
import time

import frontend as fe
from frontend import Gone
from target import take_place


def cut(front, file, size=0):
    """Cuts a file that the daemon has mapped; the rings are kicked, whatever becomes of them."""
    if file == front.file:
        front.memory.close()
    os.ftruncate(file, size)
    for ring in front.rings.values():
        front.kick(ring)


def cut_memory():
    front = take_place()
    front.set_up(pairs=2)
    assert front.passes(0) and front.passes(1)
    cut(front, front.file)
    assert front.ends(), "the connection lives on memory that is gone"
    front.close()


def cut_buffers():
    """The rings stay, what they point to goes."""
    front = take_place()
    front.negotiate()
    buffers = os.memfd_create("buffers")
    os.ftruncate(buffers, 1 << 20)
    assert front.set_memory(
        [front.region(size=0x100000), struct.pack("=QQQQ", 0x100000, 1 << 20, fe.USER * 2, 0)],
        [front.file, buffers])
    for index in (0, 1):
        front.start(index)
    ring = front.rings[1]
    os.ftruncate(buffers, 0)
    front.descriptor(ring, 0, ring.buffers, 112)
    front.offer(ring, 0)
    front.kick(ring)
    assert front.ends(), "the connection lives on buffers that are gone"
    os.close(buffers)
    front.close()


def cut_in_time():
    """While packets flow as fast as they can."""
    for _ in range(5):
        front = take_place()
        front.set_up(pairs=2)
        for _ in range(random.randrange(1, 60)):
            front.transmit(1)
            front.transmit(3)
        cut(front, front.file, random.choice([0, 4096, 0x100000, 0x140000]))
        for ring in front.rings.values():
            front.kick(ring)
        # A part that nothing lies in may not have been missed yet: the front-end goes then.
        front.ends(0.5)
        front.close()


def cut_log():
    """The log of written pages of a guest that migrates."""
    front = take_place()
    front.set_up(protocol=fe.MQ | fe.REPLY_ACK | fe.LOG_SHMFD)
    log = os.memfd_create("log")
    os.ftruncate(log, 4096)
    reply = front.ask(fe.SET_LOG_BASE, struct.pack("=QQ", 4096, 0), [log])
    assert reply[0] == fe.SET_LOG_BASE
    assert front.set_features(fe.VERSION_1 | fe.LOG_ALL)
    assert front.passes()
    assert any(os.pread(log, 4096, 0)), "nothing is logged"
    os.ftruncate(log, 0)
    front.transmit(1)
    assert front.ends(), "the connection lives with a log that is gone"
    os.close(log)
    front.close()


def cut_inflight():
    """The in-flight area. A ring that has one writes it for each batch."""
    front = take_place()
    front.negotiate(protocol=fe.MQ | fe.REPLY_ACK | fe.INFLIGHT)
    front.set_memory()
    area = os.memfd_create("inflight")
    os.ftruncate(area, 1 << 20)
    assert front.tell(fe.SET_INFLIGHT_FD, struct.pack("=QQHHI", 1 << 20, 0, 4, 64, 0), [area])
    os.ftruncate(area, 0)
    front.send(fe.SET_OWNER)
    try:
        for index in (0, 1):
            front.start(index)
    except Gone:
        pass
    assert front.ends(), "the connection lives with an area that is gone"
    os.close(area)
    front.close()


def pages_that_never_come(wait=True):
    """Postcopy without anybody who serves the faults: a worker waits, the control thread for it."""
    front = take_place(timeout=20)
    front.negotiate(protocol=fe.MQ | fe.REPLY_ACK | fe.PAGEFAULT)
    faults = front.ask(fe.POSTCOPY_ADVISE)[2]
    assert faults, "there is no userfaultfd"
    assert front.tell(fe.POSTCOPY_LISTEN)
    # Its pages are in our file only: nobody has touched them here.
    front.send(fe.SET_MEM_TABLE, struct.pack("=II", 1, 0) + front.region(), [front.file])
    front.receive()
    front.acknowledges = False
    front.send(fe.SET_MEM_TABLE, bytes(8))
    front.start(1)
    assert select.select(faults, [], [], 10)[0], "nobody has touched the ring"
    # Now a worker waits for the first page of the ring, and this is to stop it.
    begin = time.monotonic()
    front.set_ring(fe.SET_VRING_ENABLE, 1, 0)
    print("stalls", flush=True)
    if wait:
        assert front.ends(), "the control thread waits for a page for ever"
        assert time.monotonic() - begin > 2, "a page that takes its time is given none"
    else:
        front.ends()
    front.close()


def pages_that_never_come_until_the_end():
    pages_that_never_come(wait=False)
