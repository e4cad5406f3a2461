"""What the CPU makes of every family, in a process of its own beside the GPU's checks.

python references.py HOME PRECISION
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from kit import Kit, Skipped, threads
from samples import make_engine, make_job, noise_of_the_cpu, sample

PATIENCE_S = 120.0


def path_of(home: Path, family: str, precision: str) -> Path:
    """Where a reference lies."""
    return home / "references" / f"{family}-{precision}.pt"


def read(kit: Kit, family: str, precision: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and latents of the CPU, as soon as they are there.

    Raises:
        Skipped: they did not come.
    """
    path, end = path_of(kit.home, family, precision), time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > end:
            raise Skipped("the CPU has not made its reference")
        time.sleep(0.1)
    pixels, latents = torch.load(path)
    return pixels, latents


def main() -> None:
    """Make all references of a precision. Both precisions write tiny models, so each has its own."""
    from family_support import FAMILIES

    threads()
    kit, precision = Kit(Path(sys.argv[1])), sys.argv[2]
    for family in FAMILIES:
        with noise_of_the_cpu():
            pixels, latents, _ = sample(make_engine(kit, "cpu", precision), make_job(kit, family))
        path = path_of(kit.home, family, precision)
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(".part")
        torch.save((pixels, latents), unfinished)
        unfinished.rename(path)


if __name__ == "__main__":
    main()
