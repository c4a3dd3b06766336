#!/usr/bin/env python3
"""What the kernel makes of packets that are to be summed or cut: the model for our own offloads.

Reads lines of hexadecimal from stdin: a virtio-net header of 12 bytes and the packet. Sends each by
AF_PACKET (PACKET_VNET_HDR) on a veth that can neither sum nor cut, so that the kernel does, and prints
what arrives at the other end, a line for each packet: frames in hexadecimal, with blanks between them;
or "-" for a packet that the kernel refuses. To be run in a network namespace of its own
(`unshare --net --mount`).
"""

import errno
import socket
import struct
import subprocess
import sys
import time

SOL_PACKET = 263
PACKET_AUXDATA, PACKET_VNET_HDR, PACKET_VNET_HDR_SZ = 8, 15, 24
VLAN_VALID, VLAN_TPID_VALID = 0x10, 0x40
ALL = 3


def shell(*lines):
    for line in lines:
        subprocess.run(line.split(), check=True, stdout=subprocess.DEVNULL)


def send_socket():
    own = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        own.setsockopt(SOL_PACKET, PACKET_VNET_HDR_SZ, 12)
        header = 12
    except OSError:
        own.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        header = 10
    own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    own.bind(("near", 0))
    return own, header


def receive_socket():
    own = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL))
    own.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    own.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    own.bind(("far", ALL))
    return own


def receive(own):
    frame, control, _, _ = own.recvmsg(65536, 256)
    for level, kind, data in control:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tag, protocol = struct.unpack("IIIHHHH", data[:20])
            if status & VLAN_VALID:
                # The kernel keeps the outer tag apart.
                protocol = protocol if status & VLAN_TPID_VALID else 0x8100
                frame = frame[:12] + struct.pack("!HH", protocol, tag) + frame[12:]
    return frame


def counter(name):
    with open(f"/sys/class/net/near/statistics/{name}", encoding="ascii") as file:
        return int(file.read())


def send(sender, receiver, packet):
    """What arrives of a packet.  A CPU whose queue of packets is full, of anybody's, drops them: again."""
    while True:
        sent, dropped = counter("tx_packets"), counter("tx_dropped")
        try:
            sender.send(packet)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        # All segments have left when the system call returns; they may arrive a little later.
        frames = [receive(receiver).hex() for _ in range(counter("tx_packets") - sent)]
        if counter("tx_dropped") == dropped:
            return frames
        time.sleep(0.001)


def main():
    # The namespace's own view of its interfaces.
    shell("mount --make-rprivate /", "mount -t sysfs sysfs /sys")
    shell("ip link add near type veth peer name far",
          "ethtool -K near tso off gso off tx off sg off", "ip link set near mtu 9000",
          "ip link set far mtu 9000", "ip link set far arp off", "ip link set near arp off")
    for name in ("near", "far"):
        with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as file:
            file.write("1")
    shell("ip link set near up", "ip link set far up")
    (sender, header), receiver = send_socket(), receive_socket()
    receiver.settimeout(5)
    for line in sys.stdin:
        packet = bytes.fromhex(line)
        try:
            print(*send(sender, receiver, packet[:header] + packet[12:]), flush=True)
        except TimeoutError:
            raise
        except OSError as error:
            print("-", error.strerror, flush=True)


if __name__ == "__main__":
    main()
