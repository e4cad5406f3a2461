"""Prints the figures of docs/ranking.md: `PYTHONPATH=tests python THIS`. Takes some minutes."""

from __future__ import annotations

import random
import sys

from ranking_support import agreement, centred, simulated
from rushes_service.ranking.pairing import pairs_needed

RUNS = 40
COUNTS = (5, 8, 12)


def figures(count: int, factor: float, *, noisy: bool) -> tuple[int, float, float, float]:
    """Votes; shares of pairs in the right order, of runs whose best is found, and of intervals that hold the truth."""
    votes = round(factor * pairs_needed(count))
    right, best, covered = [], [], []
    for seed in range(RUNS):
        drawn = random.Random(seed)
        strengths = centred([drawn.gauss(0, 1.5) for _ in range(count)])
        found = simulated(strengths, votes, seed, noisy=noisy)
        right.append(agreement(strengths, list(found.strengths)))
        best.append(strengths.index(max(strengths)) == found.strengths.index(max(found.strengths)))
        intervals = map(found.interval, range(count))
        covered += [low <= truth <= high for truth, (low, high) in zip(strengths, intervals, strict=True)]
    return votes, sum(right) / len(right), sum(best) / RUNS, sum(covered) / len(covered)


def main() -> None:
    """Print the rows of both tables."""
    for noisy in (False, True):
        for count in COUNTS:
            for factor in (0.75, 1.0, 1.5) if not noisy else (1.0, 2.0, 4.0):
                votes, right, best, covered = figures(count, factor, noisy=noisy)
                row = f"| {count} | {votes} | {100 * right:.0f} % | {100 * best:.0f} % | {100 * covered:.1f} % |\n"
                sys.stdout.write(("drawn " if noisy else "sure  ") + row)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
