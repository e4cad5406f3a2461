"""Checks that print a JSON line each, whatever happens to them, within a budget of time."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

CUDA = torch.cuda.is_available()
DEVICE = "cuda:0" if CUDA else "cpu"
MIB = 1 << 20

T = TypeVar("T")
Row = dict[str, Any]


class Skipped(Exception):
    """A check cannot say anything here, and why."""


@dataclass
class Kit:
    """One run: what is kept where, how much time there is, and which checks are wanted.

    Args:
        home: where models and files of the run lie.
        budget_s: no check begins later than this.
        only: a check whose name does not contain this is left out.
        small: shrink what is of full size, for machines without a GPU.
        lines: also write every line to this file.
    """

    home: Path
    budget_s: float = 0.0
    only: str = ""
    small: bool = False
    lines: Path | None = None
    started: float = field(default_factory=time.monotonic)
    rows: list[Row] = field(default_factory=list)

    def check(self, name: str, work: Callable[[], Row | None], needs_s: float = 0.0) -> None:
        """Run one check and print its line: `ok` is true, false, or null with the reason for `skipped`.

        Args:
            needs_s: seconds that must be left of the budget.
        """
        if self.only not in name:
            return
        began = time.monotonic()
        row = {"check": name, **self._outcome(work, needs_s)}
        row["took"] = round(time.monotonic() - began, 2)
        self.rows.append(row)
        line = json.dumps(row, default=str)
        print(line, flush=True)
        if self.lines is not None:
            with self.lines.open("a") as file:
                file.write(line + "\n")
        free()

    def _outcome(self, work: Callable[[], Row | None], needs_s: float) -> Row:
        if self.left_s() < needs_s:
            return {"ok": None, "skipped": f"{self.left_s():.0f} s are left, it needs {needs_s:.0f}"}
        try:
            return {"ok": True, **(work() or {})}
        except Skipped as reason:
            return {"ok": None, "skipped": str(reason)}
        except Exception as error:  # noqa: BLE001  # the next check may say more
            where = [line.strip().partition("\n")[0] for line in traceback.format_tb(error.__traceback__)[-3:]]
            traceback.clear_frames(error.__traceback__)
            return {"ok": False, "error": f"{type(error).__name__}: {error}"[:400], "at": where}

    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget_s - (time.monotonic() - self.started)

    def summary(self) -> Row:
        """How many checks went how."""
        verdicts = [row["ok"] for row in self.rows]
        failed = [row["check"] for row in self.rows if row["ok"] is False]
        return {
            "check": "summary",
            "ok": not failed,
            "passed": verdicts.count(True),
            "failed": failed,
            "skipped": verdicts.count(None),
            "seconds": round(time.monotonic() - self.started, 1),
        }


def needs_gpu() -> None:
    """Raises `Skipped` without a GPU."""
    if not CUDA:
        raise Skipped("no GPU")


def free() -> None:
    """Give back what nobody uses. Models have cycles: without collecting they stay."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()


def finish() -> None:
    """Wait for the GPU."""
    if CUDA:
        torch.cuda.synchronize()


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds until the GPU has done `work`, and what that returned."""
    finish()
    start = time.perf_counter()
    result = work()
    finish()
    return time.perf_counter() - start, result


def fastest(work: Callable[[], Any], times: int = 3) -> float:
    """Seconds of the fastest of some runs."""
    return min(timed(work)[0] for _ in range(times))


def median(values: list[float]) -> float:
    return round(statistics.median(values), 4) if values else float("nan")


@dataclass
class Peak:
    """Bytes at most, above what was held before; none on a CPU."""

    mib: int | None = None


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measures the GPU's memory inside."""
    found = Peak()
    free()
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if CUDA else 0
    yield found
    finish()
    found.mib = (torch.cuda.max_memory_allocated() - before) // MIB if CUDA else None


def host_memory() -> dict[str, int]:
    """MiB of host memory that this process holds now, and has held at most."""
    import resource

    import psutil

    now = psutil.Process().memory_info().rss // MIB
    return {"now_mib": now, "most_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def apart(one: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    """Largest and mean difference."""
    difference = (one.float() - other.float()).abs()
    return {"max": round(float(difference.max()), 6), "mean": round(float(difference.mean()), 6)}


def threads() -> None:
    """Where a GPU computes, some threads for the rest; on a CPU one, which is faster for models of this size."""
    torch.set_num_threads(min(8, os.cpu_count() or 1) if CUDA else 1)
