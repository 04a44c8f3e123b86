"""What a process takes: processor time, memory, descriptors, and the size of its WAL, as the kernel counts them."""

import os
from pathlib import Path
from typing import NamedTuple

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_MIB = 2**20


class Usage(NamedTuple):
    """A process at one moment."""

    cpu_s: float  # user and system, all threads, since its start
    rss_mib: float
    peak_mib: float  # the most it ever had


def usage(pid: int) -> Usage:
    """Read what a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) * _TICK_S
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    rss, peak = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return Usage(cpu_s, rss, peak)


def descriptors(pid: int) -> int:
    """Count the open files and connections of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def wal_mib(database: Path) -> float:
    """Read the size of a database's WAL."""
    wal = database.with_name(f"{database.name}-wal")
    return wal.stat().st_size / _MIB if wal.exists() else 0.0


def drop_caches(path: Path) -> bool:
    """Make the disk be read anew; whether the kernel dropped its whole cache, else only this file's part went."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True
