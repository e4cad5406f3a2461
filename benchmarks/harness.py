"""What all benchmarks share: interleaved rounds, ratios with their spread, a table on stdout and a JSON file.

Absolute times on a shared machine mean little. Each round therefore measures everybody in turn, a ratio is taken
within each round, and what is reported is the median ratio with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5
"""Fewer say nothing about the spread."""

QUICK_ROUNDS = 2

Round = dict[str, list[float]]


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of a figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.low)}..{short(self.high)})"


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure with its spread, and what it should be at most."""

    name: str
    value: Spread
    unit: str = "ratio"
    goal: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the goal is met; nothing for a row without one."""
        if self.goal is None:
            return ""
        return f"{'met' if self.value.median <= self.goal else 'MISSED'} (<= {self.goal:g})"


@dataclass
class Report:
    """What a benchmark found."""

    benchmark: str
    title: str
    rows: list[Row] = field(default_factory=list)
    conditions: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, values: Iterable[float], unit: str = "ratio", goal: float | None = None) -> None:
        """Append a row with the spread of `values`."""
        self.rows.append(Row(name, Spread.of(values), unit, goal))

    def show(self) -> None:
        """Print the table."""
        width = max(len(row.name) for row in self.rows)
        print(f"{self.title}\n")
        for row in self.rows:
            unit = "" if row.unit == "ratio" else row.unit
            print(f"  {row.name:<{width}}  {row.value!s:>32} {unit:<6} {row.verdict}".rstrip())
        print("\n  " + ", ".join(f"{key}: {value}" for key, value in self.conditions.items()) + "\n")

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def parser(description: str) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("--quick", action="store_true", help="seconds instead of minutes: does it run at all?")
    flags.add_argument("--json", type=Path, metavar="FILE", help="where the result goes")
    flags.add_argument("--rounds", type=int, help=f"interleaved rounds (default {ROUNDS}, with --quick {QUICK_ROUNDS})")
    return flags


def rounds_of(args: argparse.Namespace) -> int:
    """How many rounds are asked for."""
    return args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)


def publish(report: Report, args: argparse.Namespace, packages: Sequence[str] = ()) -> None:
    """Print the report and write it; a quick run leaves the recorded results alone."""
    report.conditions = {**machine(packages), "rounds": rounds_of(args), **report.conditions}
    report.show()
    target = args.json or (None if args.quick else RESULTS / f"{report.benchmark}.json")
    if target:
        report.write(target)


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """The machine, its load, and the versions of `packages`."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: installed for name in packages if (installed := installed_version(name))},
    }


def installed_version(package: str) -> str | None:
    """Version of an installed package, else None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def new_round() -> Round:
    """An empty round: contestant -> its values."""
    return defaultdict(list)


def ratios(rounds: Iterable[Round], name: str, reference: str) -> list[float]:
    """Median of `name` over median of `reference`, one ratio a round."""
    return [statistics.median(taken[name]) / statistics.median(taken[reference]) for taken in rounds]


def medians(rounds: Iterable[Round], name: str) -> list[float]:
    """Median of `name` in each round."""
    return [statistics.median(taken[name]) for taken in rounds]


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))]


def undisturbed(rounds: Iterable[Round], name: str, reference: str) -> float:
    """10th percentile of `name` over that of `reference`, all rounds together.

    On a busy machine the median of whatever waits for another process is inflated by others' work; what waits for
    nobody then looks better beside it than it is. The quickest tenth of both shows it.
    """
    taken = list(rounds)
    return percentile(pooled(taken, name), 0.1) / percentile(pooled(taken, reference), 0.1)


def pooled(rounds: Iterable[Round], name: str) -> list[float]:
    """All values of `name`, of all rounds."""
    return [value for taken in rounds for value in taken[name]]


def timed(call: Any, *arguments: Any, **options: Any) -> float:
    """Seconds that one call takes."""
    began = time.perf_counter_ns()
    call(*arguments, **options)
    return (time.perf_counter_ns() - began) / 1e9


def short(value: float) -> str:
    """Three significant digits, without an exponent for sizes that people read."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
