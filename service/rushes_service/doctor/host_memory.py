"""The host memory that a GPU worker needs beside the GPU's: pinned copies of weights, as large as the weights."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from rushes_service.doctor.report import Finding, gib, ok, warn

WORKER_BYTES = 3 * 2**30
"""Of a worker on a GPU without any copy: PyTorch, CUDA, small parts. Measured were 1.6 to 2.7 GiB."""

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container reads its own limit, with version 2 and version 1 of Linux' control groups."""

BLOCK = re.compile(
    r"(?:(?:model\.)?diffusion_model\.|model\.|net\.)?(?:\w*(?:blocks|layers|refiner)|cap_embedder)\.\d+\."
)
"""Beginnings of the names of what is in a transformer's blocks, in the files of every family. Offloading counts as
blocks what is in any list of the transformer; Z-Image's `cap_embedder` is one."""


def in_block(name: str) -> bool:
    """True for a weight inside a block of a transformer: LoRAs change those, and those are offloaded."""
    return BLOCK.match(name) is not None


def check_host_memory(blocks: int, *, experts: bool, machine: int | None) -> Finding:
    """What a worker with this transformer needs of the machine; a warning if a way to keep it needs more than there is.

    Args:
        blocks: how many numbers are in its blocks.
        experts: there are two such transformers, of which a run samples with one or both.
        machine: bytes of memory of this machine; None if that cannot be known.
    """
    copies = 2 * blocks
    needs = {
        "as trained (bfloat16)": WORKER_BYTES + copies,
        "--fp8_base": WORKER_BYTES,
        "--offload": WORKER_BYTES + 2 * copies,
    }
    each = "; ".join(f"{gib(need)} {name}" for name, need in needs.items())
    why = (
        f"{gib(copies)} of it is a pinned copy of the weights that LoRAs change, which lies here unless the GPU has"
        " twice that unused; --offload keeps the blocks here, too"
    )
    both = ", and nearly twice with both experts" if experts else ""
    found = f"about {each}{both} ({why})"
    name = "host memory"
    if machine is None:
        return ok(name, found)
    found = f"{found}; this machine has {gib(machine)}"
    lacking = [way for way, need in needs.items() if need > machine]
    if not lacking:
        return ok(name, found)
    return warn(name, f"{found}, too little for: {', '.join(lacking)}", advice_for(lacking, list(needs)))


def advice_for(lacking: Sequence[str], ways: Sequence[str]) -> str:
    """What to do where some ways to keep a transformer need more than there is."""
    possible = [way for way in ways if way not in lacking]
    more = "give the worker more memory, or the system may end it"
    return f"sample {' or '.join(possible)}, or {more}" if possible else more


def machine_memory(limits: Sequence[Path] = CGROUP_LIMITS) -> int | None:
    """Bytes of memory that a process may have here: the machine's, or less in a container. None without psutil."""
    try:
        import psutil
    except ImportError:
        return None  # that it is not installed is said elsewhere
    most = int(psutil.virtual_memory().total)
    for file in limits:
        with contextlib.suppress(OSError, ValueError):  # no container, or the word `max`
            most = min(most, int(file.read_text(encoding="ascii")))
    return most
