"""Descriptors that are something else than they should be, too many, or made to block."""

import itertools
import os
import resource
import select
import signal
import socket
import struct
import threading
import time

import frontend as fe
import stalled
from frontend import FrontEnd, Gone
from target import (
    PID, SOCKET, behaves, eventually, go_on, open_descriptors, processor_time, settled_descriptors, stop,
    take_place)

# Python has no names for them.
SIGPENDING = 11
PEEK_OFF, PASSPIDFD = 42, 76


def others():
    """Descriptors that are no eventfd, and none that this process needs."""
    pipe = os.pipe()
    pair = socket.socketpair()
    network = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    file = os.open("/tmp", os.O_TMPFILE | os.O_RDWR)
    device = os.open("/dev/zero", os.O_RDWR)
    folder = os.open("/", os.O_RDONLY)
    path = os.open("/", os.O_PATH)
    epoll = select.epoll().fileno()
    memory = os.memfd_create("other")
    return [
        pipe[0], pipe[1], pair[0].detach(), pair[1].detach(), network.detach(), file, device,
        folder, path, os.dup(epoll), memory,
    ]


def wrong_kinds():
    """Whatever is no eventfd is refused as one, what is no memory as memory; nothing is kept."""
    front = take_place()
    front.set_up(protocol=fe.MQ | fe.REPLY_ACK | fe.LOG_SHMFD | fe.INFLIGHT | fe.BACKEND_REQ)
    before = settled_descriptors()
    wrong = others()
    memory = wrong[-1]
    for descriptor in wrong[:-1]:
        assert not front.set_memory(descriptors=[descriptor])
        assert not front.tell(fe.SET_INFLIGHT_FD, struct.pack("=QQHHI", 4096, 0, 2, 64, 0), [descriptor])
    for descriptor in wrong:
        for request in (fe.SET_VRING_KICK, fe.SET_VRING_CALL, fe.SET_VRING_ERR):
            assert not front.set_event(request, 1, descriptor)
        assert not front.tell(fe.SET_LOG_FD, b"", [descriptor])
    assert not front.tell(fe.SET_BACKEND_REQ_FD, b"", [memory])
    assert not front.tell(fe.SET_BACKEND_REQ_FD, b"", [wrong[4]]), "a network socket"
    eventually(lambda: open_descriptors() <= before, "what was refused is closed")
    assert front.passes(), "a refused request has changed nothing"
    for descriptor in wrong:
        os.close(descriptor)
    front.close()


def own_end():
    """Whoever keeps our end of the connection for us never sees us go, and serves nobody else."""
    front = take_place()
    front.set_up(protocol=fe.MQ | fe.REPLY_ACK | fe.BACKEND_REQ)
    assert not front.tell(fe.SET_BACKEND_REQ_FD, b"", [front.socket.fileno()])
    # In the queue of a socket that is kept, and not read any more since nonsense came by it.
    own, lent = socket.socketpair()
    assert front.tell(fe.SET_BACKEND_REQ_FD, b"", [lent.fileno()])
    lent.close()
    own.send(b"nonsense" * 3)
    front.synchronize()
    try:
        socket.send_fds(own, [b"x"], [front.socket.fileno()])
    except BrokenPipeError:
        pass
    own.close()
    front.close()


def shared_channel():
    """The channel for requests is a socket that the front-end has too, with all of its options."""
    front = take_place()
    front.set_up(protocol=fe.MQ | fe.REPLY_ACK | fe.BACKEND_REQ)
    reply = struct.pack("=IIIQ", 4, 1 | 4, 8, 0)

    # The kernel adds a descriptor of the sender to each part that is received.
    own, lent = socket.socketpair()
    try:
        lent.setsockopt(socket.SOL_SOCKET, PASSPIDFD, 1)
    except OSError:
        pass
    assert front.tell(fe.SET_BACKEND_REQ_FD, b"", [lent.fileno()])
    before = settled_descriptors()
    for index in range(200):
        own.send(reply[index % 20:index % 20 + 1])
        front.synchronize()
    eventually(lambda: open_descriptors() < before + 8, "what the kernel adds is closed")

    # What is there cannot be seen, and what is seen is not what comes next.
    for offset, parts in ((40, 1), (20, 2)):
        other, lent = socket.socketpair()
        assert front.tell(fe.SET_BACKEND_REQ_FD, b"", [lent.fileno()])
        lent.setsockopt(socket.SOL_SOCKET, PEEK_OFF, offset)
        try:
            for _ in range(parts):
                other.send(reply)
        except BrokenPipeError:
            # It has been let go already.
            pass
        front.synchronize()
        busy = processor_time()
        time.sleep(0.5)
        assert processor_time() - busy < 0.25, "nobody can make it look for ever"
        other.close()
        lent.close()

    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen()
    assert not front.tell(fe.SET_BACKEND_REQ_FD, b"", [listener.fileno()])
    assert front.passes()
    own.close()
    front.close()


def surplus():
    """Descriptors with requests that take none, and more than any message may have."""
    front = take_place()
    front.set_up()
    event = os.eventfd(0)
    before = settled_descriptors()
    for _ in range(500):
        assert not front.tell(fe.SET_OWNER, b"", [event] * 8)
        assert not front.tell(77, b"", [event] * 8)
    eventually(lambda: open_descriptors() <= before, "what nobody takes is closed")
    assert front.passes()
    front.send(fe.SET_OWNER, b"", [event] * 100)
    assert front.ends()
    os.close(event)
    front.close()


def fill(event):
    """Makes an eventfd full, and blocking for whoever writes to it."""
    os.set_blocking(event, False)
    while True:
        try:
            os.eventfd_write(event, 0xFFFF_FFFF_FFFF_FFFE)
            break
        except BlockingIOError:
            # The daemon has written to it, or does so between this and the next try.
            os.eventfd_read(event)
    os.set_blocking(event, True)


def blocking_call():
    """A call descriptor that is full and blocks its writer; the other pair's are as they should be."""
    front = take_place()
    front.set_up(pairs=2)
    assert front.passes(0) and front.passes(1)
    fill(front.rings[1].call)
    front.transmit(1)
    assert front.ends(), "the data path waits for a full eventfd"
    front.close()


def blocking_call_without_timer():
    """The same for threads that get no timer to break their calls off. The control thread has its own by
    then, else no descriptor would be taken."""
    front = take_place()
    front.negotiate()
    event = os.eventfd(0)
    assert front.set_event(fe.SET_VRING_CALL, 0, event)
    os.close(event)
    front.close()
    limits = resource.prlimit(PID, SIGPENDING)
    resource.prlimit(PID, SIGPENDING, (0, limits[1]))
    front = take_place()
    front.set_up()
    assert front.passes()
    fill(front.rings[1].call)
    assert front.passes(count=500), "the data path waits for a full eventfd"
    resource.prlimit(PID, SIGPENDING, limits)
    front.close()


def blocking_error():
    """The same with the descriptor for errors, which another thread writes."""
    front = take_place()
    front.set_up()
    ring = front.rings[1]
    fill(ring.error)
    # No ring is at the end of memory.
    front.tell(
        fe.SET_VRING_ADDR,
        struct.pack("=IIQQQQ", 1, 0, fe.USER + fe.MEMORY, fe.USER, fe.USER, 0))
    assert front.ends(), "the control thread waits for a full eventfd"
    front.close()


class Lingering:
    """Network sockets that take half a minute to close, since there is something to send yet, to somebody
    who does not read it; until that one goes."""

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.others = []
        return self

    def sockets(self, count):
        made = []
        for _ in range(count):
            one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            one.connect(self.listener.getsockname())
            self.others.append(self.listener.accept()[0])
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
            one.setblocking(False)
            try:
                while True:
                    one.send(bytes(65536))
            except BlockingIOError:
                made.append(one.detach())
        return made

    def __exit__(self, *_):
        for other in self.others:
            # What it has not read makes this a reset.
            other.close()
        self.listener.close()


def leave(front, data, descriptors, flags=0):
    """Sends descriptors that nobody else has when the daemon comes to look at them."""
    stop()
    try:
        socket.send_fds(front.socket, [data], descriptors, flags)
    except (BrokenPipeError, ConnectionResetError) as error:
        for descriptor in descriptors:
            with socket.socket(fileno=os.dup(descriptor)) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone from error
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        go_on()


def rest():
    """Until no timer runs in the daemon that guards a call that it made: it would end other waits too."""
    time.sleep(0.5)


def lingering():
    """Descriptors whose end takes long, and which the kernel would drop: too many of them, out of band,
    while too many wait already, and in the queue of one who is hung up on."""
    message = struct.pack("=III", fe.SET_OWNER, 1, 0)
    with Lingering() as network:
        front = take_place()
        front.set_up()
        rest()
        leave(front, message, network.sockets(20))
        assert front.ends(), "more than a message may have"
        front.close()
        behaves()

        front = take_place()
        front.set_up()
        rest()
        leave(front, b"x", network.sockets(1), socket.MSG_OOB)
        front.raw(message)
        assert front.ends(), "out of band"
        front.close()
        behaves()

        served = take_place()
        served.set_up()
        for flags in (0, socket.MSG_OOB):
            refused = FrontEnd(SOCKET)
            try:
                rest()
                leave(refused, b"x", network.sockets(1), flags)
            except Gone:
                pass
            refused.close()
        assert served.passes()
        try:
            files = network.sockets(400)
            rest()
            for first in range(0, 400, 8):
                leave(served, message, files[first:first + 8])
        except Gone:
            pass
        assert served.ends(), "descriptors that cannot be closed pile up"
        served.close()
        assert open_descriptors() < 400
    behaves()
    eventually(lambda: open_descriptors() < 100, "what was sent is closed")


def fuse():
    """Files of a file system whose server has stopped: asking them for anything, closing them even,
    takes as long as that likes."""
    with stalled.FileSystem() as files:
        front = take_place()
        front.set_up(protocol=fe.MQ | fe.REPLY_ACK | fe.LOG_SHMFD | fe.INFLIGHT | fe.BACKEND_REQ)
        file = files.open()
        files.stall()
        for request in (fe.SET_VRING_KICK, fe.SET_VRING_CALL, fe.SET_VRING_ERR):
            assert not front.set_event(request, 1, file)
        assert not front.set_memory(descriptors=[file])
        assert not front.tell(fe.SET_BACKEND_REQ_FD, b"", [file])
        assert not front.tell(fe.SET_OWNER, b"", [file] * 8)
        assert front.passes(), "the daemon waits for a file"
        front.send(fe.SET_OWNER, b"", [file] * 9)
        assert front.ends(), "more than a message may have"
        front.close()
        behaves()
        # More and more of them: those that wait to be closed are bounded.
        flood = take_place()
        flood.set_up()
        try:
            for _ in range(100):
                flood.send(fe.SET_OWNER, b"", [file] * 8)
        except Gone:
            pass
        assert flood.ends(), "files that cannot be closed pile up"
        flood.close()
        assert open_descriptors() < 400
    # They are closed when their server has gone.
    behaves()
    eventually(lambda: open_descriptors() < 100, "what was sent is closed")


def refused_with_sockets():
    """Many who are refused, while one is served, and have sent what takes long to close and nobody
    receives: it is closed with their connection, and nobody is let in while too much of it waits."""
    with Lingering() as network:
        served = take_place()
        served.set_up()
        rest()
        let_in = sum(1 for _ in itertools.takewhile(visits, network.sockets(400)))
        assert 200 < let_in < 300, f"{let_in} were let in"
        assert open_descriptors() < 400, "connections that cannot be closed pile up"
        assert served.passes(), "the daemon waits for them"
        served.close()
    behaves()
    eventually(lambda: open_descriptors() < 100, "what was sent is closed")


def visits(descriptor, within=5):
    """Connects, leaves a descriptor that nobody else has, and goes; False if there is no place, also not
    for a daemon that has only stood still for a moment."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
            visitor.setblocking(False)
            try:
                visitor.connect(SOCKET)
                socket.send_fds(visitor, [struct.pack("=III", fe.SET_OWNER, 1, 0)], [descriptor])
            except BlockingIOError:
                time.sleep(0.01)
            except (BrokenPipeError, ConnectionResetError):
                # Hung up on before it could say anything.
                pass
            else:
                close_elsewhere(descriptor)
                return True
    return False


def close_elsewhere(descriptor):
    """At once but in a rare case: the daemon has hung up already, and it is for us to wait."""
    closing = threading.Thread(target=os.close, args=(descriptor,), daemon=True)
    closing.start()
    closing.join(0.2)
