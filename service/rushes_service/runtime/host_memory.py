"""How much memory this machine, or this container, has and has left."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Where a container reads its limit, what it uses, and what of that the kernel takes back first (cached files), with
version 2 and version 1 of Linux' control groups."""

FILLED = 4
"""Things are kept for later as long as one part in so many of the memory stays available."""

PRESSURE = 10
"""They are given back when less than one part in so many is available."""

CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class HostMemory:
    """Bytes that this process may have in all, and could still allocate."""

    total: int
    available: int

    def spares(self, size: int = 0) -> bool:
        """True if a part of memory stays available when `size` bytes more are kept for later."""
        return self.available - size >= self.total // FILLED

    @property
    def short(self) -> bool:
        """True if what is kept for later had better be given back."""
        return self.available < self.total // PRESSURE


def host_memory(root: Path = CGROUP_ROOT) -> HostMemory:
    """Memory of the machine, or of the container that this process runs in, whichever is less."""
    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    for limit, used, cached in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # no container, or the word `max`
            most = number(root / limit)
            taken = number(root / used) - statistic((root / used).parent / "memory.stat", cached)
            total, available = min(total, most), min(available, max(most - taken, 0))
    return HostMemory(total, available)


def number(file: Path) -> int:
    """The number in a file; raises `OSError` and `ValueError`."""
    return int(file.read_text(encoding="ascii"))


def statistic(file: Path, name: str) -> int:
    """The number behind a name in a file of names and numbers; 0 if it is not there."""
    lines: Sequence[str] = file.read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
