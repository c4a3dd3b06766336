"""What vhost-user-xdp@.service promises, looked at under systemd itself.

Runs as root in the machine that systemd-root.sh boots, and prints a line for each check:

    check: NAME: ok
    check: NAME: FAILED: why

and `checks: end` behind the last.
"""

import contextlib
import grp
import os
import pwd
import signal
import socket
import stat
import subprocess
import time
import traceback

from front_end import FrontEnd, until

FOLDER = '/run/vhost-user-xdp'
# How long to wait for what has to come: an emulated machine is slow, and may stand still.
PATIENCE = 60
# Longer than such a machine stands still.
WATCHDOG = 6
FRAME = b'\xff' * 6 + b'\x02\0\0\0\0\x77' + b'\x88\xb5' + bytes(range(46))
CHECKS = []


def check(name):
    def remember(function):
        CHECKS.append((name, function))
        return function
    return remember


def run(*words, status=0):
    done = subprocess.run(words, capture_output=True, text=True, timeout=2 * PATIENCE)
    text = done.stdout + done.stderr
    assert status is None or done.returncode == status, f'{words}: {done.returncode}: {text}'
    return text


def systemctl(*words, status=0):
    return run('systemctl', '--no-pager', *words, status=status)


def show(unit, name):
    return systemctl('show', '--value', '-p', name, unit).strip()


def process(unit):
    return int(show(unit, 'MainPID'))


def configure(guest, options):
    with open(f'/etc/vhost-user-xdp/{guest}.env', 'w') as file:
        file.write(f'VHOST_USER_XDP_ARGS={options}\n')


@contextlib.contextmanager
def drop_in(unit, text):
    """The unit with more in it; whatever becomes of a check, the next one finds it as it was."""
    folder = f'/etc/systemd/system/{unit}.d'
    os.makedirs(folder, exist_ok=True)
    try:
        with open(f'{folder}/lab.conf', 'w') as file:
            file.write(text)
        systemctl('daemon-reload')
        yield
    finally:
        os.remove(f'{folder}/lab.conf')
        systemctl('daemon-reload')


@contextlib.contextmanager
def other_clock():
    """The wall clock may be set; afterwards it is what it would have been."""
    now, at = time.clock_gettime(time.CLOCK_REALTIME), time.monotonic()
    try:
        yield now
    finally:
        time.clock_settime(time.CLOCK_REALTIME, now + time.monotonic() - at)


def is_active(unit):
    return show(unit, 'ActiveState') == 'active'


def restarted(unit, former, restarts):
    """Whether another process runs in place of `former`, ready, and it is so many restarts."""
    return until(PATIENCE, lambda: process(unit) not in (0, former) and is_active(unit)) \
        and int(show(unit, 'NRestarts')) == restarts


def tells(unit, *texts):
    """Looks for them in the journal, which another process writes, in its time."""
    journal = ''

    def is_there():
        nonlocal journal
        journal = run('journalctl', '--no-pager', '-u', unit)
        return all(text in journal for text in texts)

    assert until(PATIENCE, is_there), journal


def monotonic(unit, name):
    """A time stamp of the unit, in seconds of the monotonic clock."""
    return int(show(unit, name)) / 1e6


def add_wire():
    queues = ['numrxqueues', '2', 'numtxqueues', '2']
    run('ip', 'link', 'add', 'nic0', *queues, 'type', 'veth', 'peer', 'name', 'far0', *queues)
    run('ip', 'link', 'set', 'far0', 'up')


def far_end():
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
    port.bind(('far0', 0x88b5))
    port.settimeout(PATIENCE)
    return port


VM1 = 'vhost-user-xdp@vm1.service'
SOCKET1 = f'{FOLDER}/vm1.sock'
# To close AF_XDP sockets takes grace periods of RCU.
UNHURRIED = f'[Service]\nTimeoutStopSec={PATIENCE}\n'


@check('starts as a service that notifies')
def start():
    add_wire()
    configure('vm1', '--interface=nic0')
    systemctl('start', VM1)
    assert show(VM1, 'Type') == 'notify'
    assert (show(VM1, 'ActiveState'), show(VM1, 'SubState')) == ('active', 'running')


@check('systemctl status shows what it serves')
def status():
    text = systemctl('status', VM1)
    assert f'Status: "listening on {SOCKET1}"' in text, text
    assert 'Active: active (running)' in text, text


@check('runs as a user of its own without capabilities, with a filter')
def privileges():
    main = process(VM1)
    user = pwd.getpwnam('vhost-user-xdp')
    threads = os.listdir(f'/proc/{main}/task')
    # Control, the worker, and the one that sees to the end.
    assert len(threads) == 3, threads
    for thread in threads:
        with open(f'/proc/{main}/task/{thread}/status') as file:
            lines = dict(line.rstrip('\n').split(':\t', 1) for line in file if ':\t' in line)
        assert lines['Uid'].split() == [str(user.pw_uid)] * 4, lines['Uid']
        assert lines['Gid'].split() == [str(user.pw_gid)] * 4, lines['Gid']
        for name in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb'):
            assert int(lines[name], 16) == 0, f'{name} {lines[name]}'
        assert lines['Seccomp'] == '2' and lines['NoNewPrivs'] == '1', lines


@check('the socket is for its user and group only')
def socket_file():
    status = os.stat(SOCKET1)
    user = pwd.getpwnam('vhost-user-xdp')
    assert stat.S_ISSOCK(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o770, status
    assert (status.st_uid, status.st_gid) == (user.pw_uid, user.pw_gid), status
    assert stat.S_IMODE(os.stat(FOLDER).st_mode) == 0o755


@check('a guest transmits and receives, and the status line tells of it')
def packets():
    exchange(SOCKET1, VM1)
    assert until(PATIENCE, lambda: show(VM1, 'StatusText') == f'listening on {SOCKET1}')


def exchange(path, unit):
    with far_end() as far, FrontEnd(path) as guest:
        both_ways(guest, far)
        served = f'front-end pid {os.getpid()} is connected'
        assert until(PATIENCE, lambda: show(unit, 'StatusText') == served), show(unit, 'StatusText')


def both_ways(guest, far):
    guest.transmit(FRAME)
    assert far.recv(2048) == FRAME
    guest.post_buffer()
    far.send(FRAME)
    assert guest.received() == FRAME


@check('the clock of the machine jumps by years, and neither it nor its guest notices')
def clock():
    try:
        with drop_in(VM1, f'[Service]\nWatchdogSec={WATCHDOG}\n'):
            systemctl('restart', VM1)
            former = process(VM1)
            with other_clock() as now, far_end() as far, FrontEnd(SOCKET1) as guest:
                # Ten years there, thirty back, a second and two there and back, and where it was; after
                # each one packets go both ways, and over the last ones the watchdog is asked more than
                # once.
                longer = WATCHDOG + 1
                for jump, wait in [
                    (315e6, 0), (-946e6, 0), (1, 0), (-2, 0), (315e6, longer), (-946e6, longer), (0, longer)
                ]:
                    time.clock_settime(time.CLOCK_REALTIME, now + jump)
                    assert abs(time.clock_gettime(time.CLOCK_REALTIME) - now - jump) < 30
                    time.sleep(wait)
                    both_ways(guest, far)
            # A wait that a jump had made longer or shorter would show here: who left and who comes.
            exchange(SOCKET1, VM1)
            assert (process(VM1), show(VM1, 'NRestarts')) == (former, '0')
    finally:
        # Without the watchdog, and counted from nothing.
        systemctl('restart', VM1)


@check('killed, it is started again within a second')
def killed():
    # An emulated machine is slow, and slower beside others: so long a question to systemd takes, which
    # is a few milliseconds on one that is not. And it may stand still just now, but not each time.
    for restarts in (1, 2, 3):
        at = time.monotonic()
        former = process(VM1)
        question = time.monotonic() - at
        at = time.monotonic()
        os.kill(former, signal.SIGKILL)
        assert restarted(VM1, former, restarts)
        pause = monotonic(VM1, 'ExecMainStartTimestampMonotonic') - at
        ready = monotonic(VM1, 'ActiveEnterTimestampMonotonic') - at
        print(f'started again after {pause:.2f} s, ready after {ready:.2f} s; a question: {question:.2f} s')
        exchange(SOCKET1, VM1)
        if pause < 1 + 3 * question:
            return
    raise AssertionError('it was never started again within a second')


@check('stopped by a signal, it is ended by the watchdog and started again')
def watchdog():
    with drop_in(VM1, f'[Service]\nWatchdogSec={WATCHDOG}\n'):
        systemctl('restart', VM1)
        former = process(VM1)
        # It lives as long as it answers, longer than the watchdog waits.
        time.sleep(WATCHDOG + 1)
        assert process(VM1) == former
        os.kill(former, signal.SIGSTOP)
        assert restarted(VM1, former, 1)
        tells(VM1, 'Watchdog timeout')


@check('an interface that is deleted ends it, and it comes back with the interface')
def deleted():
    former = process(VM1)
    restarts = int(show(VM1, 'NRestarts'))
    run('ip', 'link', 'delete', 'nic0')
    assert until(PATIENCE, lambda: int(show(VM1, 'NRestarts')) > restarts + 1)
    add_wire()
    assert until(PATIENCE, lambda: process(VM1) not in (0, former) and is_active(VM1))
    tells(VM1, 'nic0 is gone', 'there is no interface nic0')
    exchange(SOCKET1, VM1)


@check('stopped in order, it ends within two seconds and leaves nothing')
def stop():
    assert show(VM1, 'TimeoutStopUSec') == '2s'
    # It ends well each time, and within that time unless the machine stands still just now. Systemd remembers
    # no times of a unit that has ended well: that of the call counts, which is slow as questions are.
    with drop_in(VM1, UNHURRIED):
        for _ in range(3):
            systemctl('start', VM1)
            assert 'prog/xdp' in run('ip', '-details', 'link', 'show', 'nic0')
            at = time.monotonic()
            show(VM1, 'MainPID')
            question, at = time.monotonic() - at, time.monotonic()
            systemctl('stop', VM1)
            took = time.monotonic() - at
            print(f'stopped in {took:.2f} s, with the call; a question: {question:.2f} s')
            assert (show(VM1, 'ActiveState'), show(VM1, 'Result')) == ('inactive', 'success')
            assert show(VM1, 'ExecMainStatus') == '0'
            assert not os.path.exists(SOCKET1)
            assert 'prog/xdp' not in run('ip', '-details', 'link', 'show', 'nic0')
            assert 'promiscuity 0' in run('ip', '-details', 'link', 'show', 'nic0')
            if took < 2 + 3 * question:
                return
    raise AssertionError('it never ended within two seconds')


@check('a wrong command line is not tried again')
def usage():
    unit = 'vhost-user-xdp@vm2.service'
    configure('vm2', '--interface=null: --nonsense')
    systemctl('start', unit, status=None)
    assert until(PATIENCE, lambda: show(unit, 'ActiveState') == 'failed')
    assert show(unit, 'ExecMainStatus') == '64'
    # Longer than RestartSec.
    time.sleep(1)
    assert (show(unit, 'ActiveState'), show(unit, 'NRestarts')) == ('failed', '0')
    tells(unit, 'Unknown option')


@check('a socket unit starts it with the first front-end, and outlives it')
def activated():
    unit, listener = 'vhost-user-xdp@vm3.service', 'vhost-user-xdp@vm3.socket'
    path = f'{FOLDER}/vm3.sock'
    configure('vm3', '--interface=nic0')
    try:
        # As for a QEMU that runs as another user.
        with drop_in(listener, '[Socket]\nSocketGroup=operator\n'):
            group = grp.getgrnam('operator').gr_gid
            systemctl('start', listener)
            status = os.stat(path)
            user = pwd.getpwnam('vhost-user-xdp')
            assert stat.S_IMODE(status.st_mode) == 0o660, status
            assert (status.st_uid, status.st_gid) == (user.pw_uid, group), status
            assert show(unit, 'ActiveState') == 'inactive'
            exchange(path, unit)
            former = process(unit)
            os.kill(former, signal.SIGKILL)
            # At once: nobody accepts yet.
            exchange(path, unit)
            assert process(unit) != former
            systemctl('stop', unit)
            assert (os.stat(path).st_ino, os.stat(path).st_gid) == (status.st_ino, group)
            systemctl('stop', listener)
            assert not os.path.exists(path)
    finally:
        # The interface is for the next check.
        systemctl('stop', listener, unit, status=None)


@check('grant starts it without a capability, under the same unit')
def granted():
    with drop_in(VM1, UNHURRIED + """
CapabilityBoundingSet=CAP_SETUID CAP_SETGID
AmbientCapabilities=
SystemCallFilter=@setuid
ExecStart=
ExecStart=!/usr/bin/vhost-user-xdp grant --user=vhost-user-xdp -- \\
  --socket-path=/run/vhost-user-xdp/%i.sock $VHOST_USER_XDP_ARGS
"""):
        systemctl('start', VM1)
        privileges()
        socket_file()
        # Frame memory of both queues is beyond what a plain user may lock.
        tells(VM1, 'nic0 queue 1: native, copy')
        exchange(SOCKET1, VM1)
        systemctl('stop', VM1)
        assert show(VM1, 'Result') == 'success'
        assert 'prog/xdp' not in run('ip', '-details', 'link', 'show', 'nic0')


@check('another group may connect if the unit is in it, and else it says what is missing')
def socket_group():
    unit, path = 'vhost-user-xdp@vm4.service', f'{FOLDER}/vm4.sock'
    configure('vm4', '--interface=null: --socket-group=operator')
    systemctl('start', '--no-block', unit)
    assert until(PATIENCE, lambda: int(show(unit, 'NRestarts')) > 0)
    systemctl('stop', unit)
    tells(unit, f'chown {path}: ', 'SupplementaryGroups=')
    assert not os.path.exists(path)
    with drop_in(unit, '[Service]\nSupplementaryGroups=operator\n'):
        systemctl('start', unit)
        status = os.stat(path)
        user, group = pwd.getpwnam('vhost-user-xdp'), grp.getgrnam('operator')
        assert stat.S_IMODE(status.st_mode) == 0o660, status
        assert (status.st_uid, status.st_gid) == (user.pw_uid, group.gr_gid), status
        with FrontEnd(path) as guest:
            guest.transmit(FRAME)
        systemctl('stop', unit)
        assert not os.path.exists(path)


def main():
    # What the kernel has to say would stand in the middle of a line; the journal has it.
    with open('/proc/sys/kernel/printk', 'w') as level:
        level.write('1')
    for name, function in CHECKS:
        at = time.monotonic()
        try:
            function()
            verdict = 'ok'
        except Exception:
            verdict = 'FAILED: ' + ' | '.join(traceback.format_exc().splitlines()[-6:])
        print(f'check: {name}: {verdict}')
        print(f'took {time.monotonic() - at:.1f} s')
        if verdict != 'ok':
            print(run('journalctl', '--no-pager', '-n', '40', status=None))
    print('checks: end')


main()
