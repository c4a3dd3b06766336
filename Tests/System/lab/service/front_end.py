"""A front-end and the driver of its device, as small as they can be: one queue pair, split rings,
one buffer at a time.  Its guest memory is a memfd that is read and written as a file, so Python's
smallest installation will do.

    with FrontEnd('/run/vm.sock') as guest:
        guest.transmit(frame)
        guest.post_buffer()
        frame = guest.received()
"""

import os
import socket
import struct
import time

GUEST, USER, SIZE = 0x100000, 0x7F0000000000, 1 << 20
QUEUE_SIZE = 16
# Where each ring's parts begin in guest memory, and its buffer.
RECEIVE, TRANSMIT = 0, 1
DESCRIPTORS, AVAILABLE, USED, BUFFER = 0x0000, 0x1000, 0x2000, 0x4000
RING = 0x10000
HEADER = 12

VERSION_1, PROTOCOL_FEATURES = 1 << 32, 1 << 30
(GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR,
 SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL) = (1, 2, 3, 5, 8, 9, 10, 11, 12, 13)
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE = 15, 16, 18


def until(seconds, condition):
    """Whether `condition` comes to hold."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class FrontEnd:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A time limit of Python's makes the socket one that does not wait, and such a one is refused
        # while the daemon has yet to take up others (EAGAIN); the kernel's limit waits for a place.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('ll', 60, 0))
        self.socket.connect(path)
        self.socket.settimeout(60)
        self.memory = os.memfd_create('guest')
        os.ftruncate(self.memory, SIZE)
        self.kicks = [os.eventfd(0), os.eventfd(0)]
        self.calls = [os.eventfd(0), os.eventfd(0)]
        self.published = [0, 0]

    def __enter__(self):
        self.negotiate()
        for ring in (RECEIVE, TRANSMIT):
            self.start(ring)
        # An answer: what was sent before has been done, and the rings are enabled.
        self.ask(GET_FEATURES)
        return self

    def __exit__(self, *_):
        self.socket.close()
        for descriptor in [self.memory] + self.kicks + self.calls:
            os.close(descriptor)

    def send(self, request, payload=b'', descriptors=()):
        socket.send_fds(
            self.socket, [struct.pack('<III', request, 1, len(payload)) + payload], descriptors)

    def ask(self, request, payload=b''):
        self.send(request, payload)
        answered, _, size = struct.unpack('<III', self.read(12))
        assert answered == request, answered
        return self.read(size)

    def read(self, size):
        data = b''
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionError('the back-end has hung up')
            data += part
        return data

    def negotiate(self):
        self.features, = struct.unpack('<Q', self.ask(GET_FEATURES))
        assert self.features & VERSION_1 and self.features & PROTOCOL_FEATURES
        self.ask(GET_PROTOCOL_FEATURES)
        self.send(SET_PROTOCOL_FEATURES, struct.pack('<Q', 0))
        self.send(SET_OWNER)
        self.send(SET_FEATURES, struct.pack('<Q', VERSION_1 | PROTOCOL_FEATURES))
        self.send(
            SET_MEM_TABLE, struct.pack('<IIQQQQ', 1, 0, GUEST, SIZE, USER, 0), [self.memory])

    def start(self, ring):
        at = USER + ring * RING
        self.send(SET_VRING_NUM, struct.pack('<II', ring, QUEUE_SIZE))
        self.send(SET_VRING_BASE, struct.pack('<II', ring, 0))
        self.send(SET_VRING_ADDR, struct.pack(
            '<IIQQQQ', ring, 0, at + DESCRIPTORS, at + USED, at + AVAILABLE, 0))
        self.send(SET_VRING_CALL, struct.pack('<Q', ring), [self.calls[ring]])
        self.send(SET_VRING_KICK, struct.pack('<Q', ring), [self.kicks[ring]])
        self.send(SET_VRING_ENABLE, struct.pack('<II', ring, 1))

    def publish(self, ring, length, flags):
        """Makes the ring's buffer available."""
        at = ring * RING
        os.pwrite(
            self.memory, struct.pack('<QIHH', GUEST + at + BUFFER, length, flags, 0),
            at + DESCRIPTORS)
        slot = self.published[ring] % QUEUE_SIZE
        os.pwrite(self.memory, struct.pack('<H', 0), at + AVAILABLE + 4 + 2 * slot)
        self.published[ring] += 1
        os.pwrite(self.memory, struct.pack('<H', self.published[ring]), at + AVAILABLE + 2)
        os.eventfd_write(self.kicks[ring], 1)

    def returned(self, ring, seconds=60):
        """Waits for the buffer to come back; what was written to it, in bytes."""
        at = ring * RING + USED

        def is_back():
            index, = struct.unpack('<H', os.pread(self.memory, 2, at + 2))
            return index == self.published[ring]

        if not until(seconds, is_back):
            raise TimeoutError('the buffer does not come back')
        slot = (self.published[ring] - 1) % QUEUE_SIZE
        return struct.unpack('<II', os.pread(self.memory, 8, at + 4 + 8 * slot))[1]

    def transmit(self, frame):
        os.pwrite(self.memory, bytes(HEADER) + frame, TRANSMIT * RING + BUFFER)
        self.publish(TRANSMIT, HEADER + len(frame), 0)
        self.returned(TRANSMIT)

    def post_buffer(self):
        self.publish(RECEIVE, 2048, 2)

    def received(self):
        length = self.returned(RECEIVE)
        return os.pread(self.memory, length, RECEIVE * RING + BUFFER)[HEADER:]
