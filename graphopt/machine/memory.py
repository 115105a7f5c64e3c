"""Free memory of this machine."""

from __future__ import annotations

from pathlib import Path

_SYSTEM, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
"""Linux's memory figures of the machine, and of the control group (version 2) of a container."""


def free_memory() -> int | None:
    """Bytes that a process can still allocate without swapping; None where the system gives no figure."""
    found = [number for number in (_of_system(), _of_group()) if number is not None]
    return min(found, default=None)


def _of_system() -> int | None:
    try:
        lines = _SYSTEM.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _of_group() -> int | None:
    try:
        limit, used = ((_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return max(int(limit) - int(used), 0) if limit.isdecimal() and used.isdecimal() else None
