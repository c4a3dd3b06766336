#!/usr/bin/env python3
"""attack.py SOCKET PID NAME: one attack on the daemon PID, which listens at SOCKET, and then a front-end
that behaves. It ends with status 0 if the attack was met as it has to be, and that one served; what the
daemon keeps afterwards the caller looks at."""

import signal
import sys

import descriptor_attacks
import memory_attacks
import message_attacks
import ring_attacks
import target

MODULES = (memory_attacks, descriptor_attacks, message_attacks, ring_attacks, target)


def main(name):
    signal.alarm(40)
    function = name.replace("-", "_")
    module = next(module for module in MODULES if hasattr(module, function))
    getattr(module, function)()
    # Whoever comes next is served.
    if not name.endswith("-end"):
        target.behaves()
    print("met")


main(sys.argv[3])
