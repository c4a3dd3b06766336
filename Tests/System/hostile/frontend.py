"""A vhost-user front-end and the driver of its device, as bare as can be: it does what it is told, be
that right or wrong, and trusts nothing. Split rings, all memory in one file but for what an attack
wants elsewhere.

Guest-physical addresses begin at 0, the front-end's own at USER."""

import mmap
import os
import socket
import struct
import time

USER = 0x7000_0000_0000
SIZE = 64
MEMORY = 4 << 20
NET_HEADER = 12
BUFFER = 2048

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_LOG_BASE, SET_LOG_FD, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE = 6, 7, 8, 9, 10
GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 11, 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SET_BACKEND_REQ_FD, POSTCOPY_ADVISE, POSTCOPY_LISTEN = 21, 28, 29
GET_INFLIGHT_FD, SET_INFLIGHT_FD, VRING_KICK = 31, 32, 35

VERSION_1, RING_PACKED, PROTOCOL_FEATURES, LOG_ALL = 1 << 32, 1 << 34, 1 << 30, 1 << 26
MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, PAGEFAULT = 1 << 0, 1 << 1, 1 << 3, 1 << 5, 1 << 8
INFLIGHT, INBAND = 1 << 12, 1 << 14

FRAME = b"\xff" * 6 + b"\x02\0\0\0\0\x77" + b"\x88\xb5" + bytes(range(100))


class Gone(Exception):
    """The back-end has closed the connection."""


class Ring:
    """Where ring `index` lies, and its events. Odd rings transmit."""

    def __init__(self, index):
        self.index = index
        self.base = 0x10000 * index
        self.avail, self.used = self.base + 0x1000, self.base + 0x2000
        self.buffers = 0x100000 + 0x40000 * index
        self.kick, self.call, self.error = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3))
        self.offered = self.seen = 0

    def close(self):
        for descriptor in (self.kick, self.call, self.error):
            os.close(descriptor)


class FrontEnd:
    def __init__(self, path, timeout=10):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A time limit of Python's makes the socket one that does not wait, and such a one is refused
        # while the back-end has yet to take up others (EAGAIN); the kernel's limit waits for a place.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", timeout, 0))
        self.socket.connect(path)
        self.socket.settimeout(timeout)
        self.file = os.memfd_create("hostile", os.MFD_CLOEXEC)
        os.ftruncate(self.file, MEMORY)
        self.memory = mmap.mmap(self.file, MEMORY)
        self.rings = {}
        self.acknowledges = False

    def close(self):
        self.socket.close()
        for ring in self.rings.values():
            ring.close()
        self.rings = {}
        try:
            self.memory.close()
        except BufferError:
            pass
        os.close(self.file)

    # Messages.

    def raw(self, data, descriptors=()):
        try:
            if descriptors:
                socket.send_fds(self.socket, [data], list(descriptors))
            else:
                self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Gone from error

    def send(self, request, payload=b"", descriptors=(), flags=1):
        self.raw(struct.pack("=III", request, flags, len(payload)) + payload, descriptors)

    def receive(self):
        """The next reply: request, payload, descriptors."""
        descriptors = []
        header = self.read(12, descriptors)
        request, _, size = struct.unpack("=III", header)
        return request, self.read(size, descriptors), descriptors

    def read(self, count, descriptors):
        data = b""
        while len(data) < count:
            try:
                part, more, _, _ = socket.recv_fds(self.socket, count - len(data), 8)
            except ConnectionResetError as error:
                raise Gone from error
            descriptors += more
            if not part:
                raise Gone
            data += part
        return data

    def ask(self, request, payload=b"", descriptors=()):
        self.send(request, payload, descriptors)
        return self.receive()

    def tell(self, request, payload=b"", descriptors=()):
        """Returns whether it was done, if the back-end says so."""
        if not self.acknowledges:
            self.send(request, payload, descriptors)
            return True
        self.send(request, payload, descriptors, flags=1 | 8)
        return struct.unpack("=Q", self.receive()[1])[0] == 0

    def number(self, request):
        return struct.unpack("=Q", self.ask(request)[1])[0]

    def synchronize(self):
        """All that was sent before has been handled."""
        self.number(GET_FEATURES)

    def ends(self, within=20):
        """Waits for the back-end to close the connection."""
        self.socket.settimeout(within)
        try:
            while True:
                self.read(1, [])
        except Gone:
            return True
        except TimeoutError:
            return False

    # What every front-end does.

    def negotiate(self, features=VERSION_1, protocol=MQ | REPLY_ACK):
        offered = self.number(GET_PROTOCOL_FEATURES)
        self.send(SET_OWNER)
        self.send(SET_PROTOCOL_FEATURES, struct.pack("=Q", protocol & offered))
        self.acknowledges = bool(protocol & REPLY_ACK)
        assert self.tell(SET_FEATURES, struct.pack("=Q", features | PROTOCOL_FEATURES))

    def set_features(self, features):
        return self.tell(SET_FEATURES, struct.pack("=Q", features | PROTOCOL_FEATURES))

    def region(self, guest=0, size=MEMORY, offset=0):
        return struct.pack("=QQQQ", guest, size, USER + guest, offset)

    def set_memory(self, regions=None, descriptors=None):
        regions = regions or [self.region()]
        return self.tell(
            SET_MEM_TABLE, struct.pack("=II", len(regions), 0) + b"".join(regions),
            descriptors or [self.file])

    def set_ring(self, request, index, value):
        return self.tell(request, struct.pack("=II", index, value))

    def set_event(self, request, index, descriptor):
        return self.tell(request, struct.pack("=Q", index), [descriptor])

    def set_addresses(self, ring, flags=0):
        return self.tell(
            SET_VRING_ADDR,
            struct.pack(
                "=IIQQQQ", ring.index, flags, USER + ring.base, USER + ring.used,
                USER + ring.avail, ring.used))

    def start(self, index):
        ring = self.rings[index] = Ring(index)
        self.set_ring(SET_VRING_NUM, index, SIZE)
        self.set_ring(SET_VRING_BASE, index, 0)
        self.set_addresses(ring)
        self.set_event(SET_VRING_ERR, index, ring.error)
        self.set_event(SET_VRING_CALL, index, ring.call)
        self.set_event(SET_VRING_KICK, index, ring.kick)
        self.set_ring(SET_VRING_ENABLE, index, 1)
        return ring

    def set_up(self, pairs=1, **options):
        """Everything up to rings that run, with buffers to receive into."""
        self.negotiate(**options)
        assert self.set_memory()
        for pair in range(pairs):
            self.start(2 * pair)
            self.give_buffers(2 * pair)
            self.start(2 * pair + 1)

    # The driver.

    def write(self, address, form, *values):
        struct.pack_into(form, self.memory, address, *values)

    def number_at(self, address, form="<H"):
        return struct.unpack_from(form, self.memory, address)[0]

    def descriptor(self, ring, slot, address, length, flags=0, following=0):
        self.write(ring.base + 16 * slot, "<QIHH", address, length, flags, following)

    def offer(self, ring, head):
        self.write(ring.avail + 4 + 2 * (ring.offered % SIZE), "<H", head)
        ring.offered += 1
        # Not by pack_into(), which writes a zero first.
        with memoryview(self.memory) as view, view.cast("H") as words:
            words[(ring.avail + 2) // 2] = ring.offered & 0xFFFF

    def kick(self, ring):
        try:
            os.eventfd_write(ring.kick, 1)
        except BlockingIOError:
            pass

    def give_buffers(self, index, count=32):
        ring = self.rings[index]
        for i in range(count):
            slot = ring.offered % SIZE
            self.descriptor(ring, slot, ring.buffers + BUFFER * slot, BUFFER, flags=2)
            self.offer(ring, slot)
        self.kick(ring)

    def transmit(self, index, frame=FRAME):
        ring = self.rings[index]
        slot = ring.offered % SIZE
        address = ring.buffers + BUFFER * slot
        self.memory[address : address + NET_HEADER + len(frame)] = bytes(NET_HEADER) + frame
        self.descriptor(ring, slot, address, NET_HEADER + len(frame))
        self.offer(ring, slot)
        self.kick(ring)

    def received(self, index):
        """The next frame in a receive ring, which gets a buffer for it; None if there is none."""
        ring = self.rings[index]
        if self.number_at(ring.used + 2) == ring.seen & 0xFFFF:
            return None
        place = ring.used + 4 + 8 * (ring.seen % SIZE)
        head, length = struct.unpack_from("<II", self.memory, place)
        ring.seen += 1
        address = ring.buffers + BUFFER * head
        frame = self.memory[address + NET_HEADER : address + length]
        self.give_buffers(index, 1)
        return frame

    def passes(self, pair=0, count=3, within=10):
        """Whether frames that are sent come back. Others may come first: what the device was given last
        before its memory went away is zeros, and waits for whoever comes next."""
        for _ in range(count):
            self.transmit(2 * pair + 1)
            end = time.monotonic() + within
            while self.received(2 * pair) != FRAME:
                if time.monotonic() > end:
                    return False
                time.sleep(0.0005)
        return True
