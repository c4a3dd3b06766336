"""A file system in user space (FUSE) with one file, whose server stops answering when it is told to.

The server speaks the kernel's protocol itself, in a process of its own: when that ends, the kernel
lets go whoever waits for it."""

import ctypes
import errno
import os
import signal
import struct
import tempfile
import time

LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH = 1, 2, 3, 14, 15, 17, 18, 25
INIT, OPENDIR, DESTROY = 26, 27, 38
LIBC = ctypes.CDLL(None, use_errno=True)


class FileSystem:
    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="stalled-")
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        self.server = os.fork()
        if self.server == 0:
            # It has to mount by itself, so that nobody else holds the device open.
            if LIBC.mount(b"stalled", self.folder.encode(), b"fuse", 0, options) != 0:
                os._exit(ctypes.get_errno())
            serve(device)
            os._exit(0)
        os.close(device)
        end = time.monotonic() + 20
        while not os.path.ismount(self.folder):
            assert time.monotonic() < end, "no FUSE file system can be mounted"
            time.sleep(0.01)
        return self

    def open(self):
        self.file = os.open(self.folder + "/file", os.O_RDWR)
        return self.file

    def stall(self):
        os.kill(self.server, signal.SIGSTOP)

    def __exit__(self, *_):
        os.kill(self.server, signal.SIGKILL)
        os.waitpid(self.server, 0)
        LIBC.umount2(self.folder.encode(), 2)
        os.rmdir(self.folder)


def attributes(node):
    mode = 0o40755 if node == 1 else 0o100600
    return struct.pack("=QQQQQQIIIIIIIIII", node, 1 << 20, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def serve(device):
    while True:
        request = os.read(device, 1 << 18)
        length, code, unique, node = struct.unpack_from("=IIQQ", request)
        error, answer = 0, b""
        if code == INIT:
            answer = struct.pack("=IIIIHHIIHHI7I", 7, 31, 1 << 17, 0, 16, 12, 1 << 17, 1, 32, 0, 0, *[0] * 7)
        elif code == LOOKUP:
            answer = struct.pack("=QQQQII", 2, 1, 0, 0, 0, 0) + attributes(2)
        elif code == GETATTR:
            answer = struct.pack("=QII", 0, 0, 0) + attributes(node)
        elif code in (OPEN, OPENDIR):
            answer = struct.pack("=QII", 1, 0, 0)
        elif code in (RELEASE, FLUSH):
            pass
        elif code == FORGET:
            continue
        else:
            error = -errno.ENOSYS
        os.write(device, struct.pack("=IiQ", 16 + len(answer), error, unique) + answer)
