"""What the kernel says about processes, CPUs and memory: readers, and the parsers they rest on."""

import os
import re
import time

TICKS = os.sysconf("SC_CLK_TCK")


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def cpu_nanoseconds(pid):
    """CPU time of a process so far, of the threads that have ended too."""
    # The clock of clock_getcpuclockid(3), which Python lacks.
    return time.clock_gettime_ns((~pid << 3) | 2)


def user_and_system_seconds(pid):
    """User and system time of a process so far; the kernel divides it by samples."""
    return parse_stat(read(f"/proc/{pid}/stat"))


def parse_stat(text):
    # The name, in brackets, may contain anything.
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def context_switches(pid):
    """How often each thread of a process has gone to sleep so far: {thread: times}."""
    found = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            found[thread] = parse_switches(read(f"/proc/{pid}/task/{thread}/status"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that ended
    return found


def parse_switches(text):
    return int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", text, re.M).group(1))


def wakeups(before, after):
    """What was added between two answers of context_switches; threads may have come and gone."""
    return sum(count - before.get(thread, 0) for thread, count in after.items())


def machine_seconds():
    """CPU seconds of the whole machine so far: (busy, taken away by the host)."""
    return parse_machine(read("/proc/stat"))


def parse_machine(text):
    user, nice, system, _, _, irq, softirq, steal = (int(x) for x in text.split()[1:9])
    return (user + nice + system + irq + softirq) / TICKS, steal / TICKS


def softirq_thread(cpu):
    """The process id of the kernel thread that does a CPU's deferred network work, or None."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if read(f"/proc/{entry}/comm").strip() == f"ksoftirqd/{cpu}":
                return int(entry)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def listens(pid, path):
    """Whether something listens at a Unix socket of that path, in the process's namespace."""
    return any(
        line.endswith(" " + path) and line.split()[3] == "00010000"
        for line in read(f"/proc/{pid}/net/unix").splitlines())


def connections(pid, path):
    """How many accepted connections a listening Unix socket of that path has."""
    return sum(
        line.endswith(" " + path) and line.split()[3] == "00000000" and line.split()[5] == "03"
        for line in read(f"/proc/{pid}/net/unix").splitlines())


def mappings(smaps):
    """The mappings in a text of /proc/PID/smaps: start, end, inode, name, and resident bytes."""
    found = []
    for line in smaps.splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ (\S+) (\d+) *(.*)", line)
        if head:
            start, end, device, inode, name = head.groups()
            found.append({"bytes": int(end, 16) - int(start, 16), "file": (device, int(inode)),
                          "name": name, "resident": 0})
            continue
        value = re.match(r"(Rss|Private_Hugetlb|Shared_Hugetlb): +(\d+) kB", line)
        if value:
            found[-1]["resident"] += int(value.group(2)) * 1024
    return found


def memory(smaps, guest_smaps, frame_bytes):
    """Resident bytes of a back-end, divided into guest memory, frame memory and the rest.

    Guest memory is what it maps of a memory file that the front-end has mapped as well.  Frame
    memory is its anonymous mappings of one of the sizes `frame_bytes`, or those of its own memory
    files and huge pages (DPDK).
    """
    def in_memory(mapping):
        return mapping["file"][1] != 0 and re.search(
            r"^/memfd:|^/dev/hugepages|^/anon_hugepage|/rtemap", mapping["name"])

    guests = {mapping["file"] for mapping in mappings(guest_smaps) if in_memory(mapping)}
    result = {"guest": 0, "frames": 0, "rest": 0}
    for mapping in mappings(smaps):
        if mapping["file"] in guests and in_memory(mapping):
            part = "guest"
        elif in_memory(mapping) or (mapping["file"][1] == 0 and mapping["bytes"] in frame_bytes):
            part = "frames"
        else:
            part = "rest"
        result[part] += mapping["resident"]
    return result


def memory_of(pid, front_end, frame_bytes=()):
    return memory(read(f"/proc/{pid}/smaps"), read(f"/proc/{front_end}/smaps"), frame_bytes)
