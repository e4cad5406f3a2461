"""Strengths of contenders from votes on pairs, with intervals: the Bradley-Terry model with a normal prior.

P(a beats b) = 1 / (1 + exp(s_b - s_a)): R. A. Bradley and M. E. Terry, "Rank analysis of incomplete block designs",
Biometrika 39 (1952). A tie counts as half a win for each. Each strength has the prior N(0, PRIOR_SD^2), which keeps
contenders without a loss finite; the posterior is approximated by a normal at its mode (Laplace's method): Newton's
method gives the mode, and the inverse of the Hessian the covariance. Pure Python: the API has no numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PRIOR_SD = 2.0
"""Standard deviation of strengths, in logits. Simulated intervals cover the truth at their level with this value also
for strengths that differ less (docs/ranking.md)."""

LEVEL_Z = 1.959964
"""Half the width of a 95 % interval, in standard deviations."""

STEPS = 50
TOLERANCE = 1e-8
"""Of a Newton step, in logits."""

LONGEST_STEP = 2.0
"""Newton's step from a flat start may overshoot; no coordinate moves further than this at once."""

Matrix = list[list[float]]


@dataclass(frozen=True)
class Outcome:
    """Votes on one pair of contenders, by index: `share` of `votes` went to `first` (a tie gives half a vote)."""

    first: int
    second: int
    share: float
    votes: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """Strengths in logits, their sum 0, and their covariance."""

    strengths: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]

    def interval(self, index: int) -> tuple[float, float]:
        """The 95 % interval of one strength."""
        half = LEVEL_Z * math.sqrt(self.covariance[index][index])
        return self.strengths[index] - half, self.strengths[index] + half

    def spread(self, first: int, second: int) -> float:
        """Variance of the difference of two strengths."""
        rows = self.covariance
        return max(0.0, rows[first][first] + rows[second][second] - 2 * rows[first][second])

    def stronger(self, first: int, second: int) -> float:
        """Probability that the first of two contenders is the stronger one."""
        deviation = math.sqrt(self.spread(first, second))
        gap = self.strengths[first] - self.strengths[second]
        return 0.5 if deviation == 0 else 0.5 * (1 + math.erf(gap / deviation / math.sqrt(2)))


def estimate(count: int, outcomes: Iterable[Outcome], prior_sd: float = PRIOR_SD) -> Estimate:
    """The posterior of `count` strengths given the votes."""
    found = list(outcomes)
    strengths = [0.0] * count
    for _ in range(STEPS):
        gradient, hessian = derivatives(strengths, found, prior_sd)
        step = solved(cholesky(hessian), gradient)
        strengths = [
            value + min(LONGEST_STEP, max(-LONGEST_STEP, move)) for value, move in zip(strengths, step, strict=True)
        ]
        if max(map(abs, step), default=0.0) < TOLERANCE:
            break
    _, hessian = derivatives(strengths, found, prior_sd)
    return centred(strengths, inverse(hessian))


def derivatives(strengths: Sequence[float], outcomes: Sequence[Outcome], prior_sd: float) -> tuple[list[float], Matrix]:
    """Gradient of the log posterior, and the negative of its Hessian."""
    precision = 1 / prior_sd**2
    gradient = [-value * precision for value in strengths]
    hessian = [
        [precision if row == column else 0.0 for column in range(len(strengths))] for row in range(len(strengths))
    ]
    for outcome in outcomes:
        first, second = outcome.first, outcome.second
        chance = logistic(strengths[first] - strengths[second])
        surprise = outcome.votes * (outcome.share - chance)
        gradient[first] += surprise
        gradient[second] -= surprise
        weight = outcome.votes * chance * (1 - chance)
        hessian[first][first] += weight
        hessian[second][second] += weight
        hessian[first][second] -= weight
        hessian[second][first] -= weight
    return gradient, hessian


def logistic(value: float) -> float:
    """1 / (1 + exp(-value)), without overflow."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    grown = math.exp(value)
    return grown / (1 + grown)


def centred(strengths: Sequence[float], covariance: Matrix) -> Estimate:
    """Strengths relative to their mean, which votes on pairs say nothing about, and the covariance of those."""
    count = len(strengths)
    if not count:
        return Estimate((), ())
    mean = sum(strengths) / count
    rows = [sum(row) / count for row in covariance]
    total = sum(rows) / count
    moved = tuple(tuple(covariance[i][j] - rows[i] - rows[j] + total for j in range(count)) for i in range(count))
    return Estimate(tuple(value - mean for value in strengths), moved)


def cholesky(matrix: Matrix) -> Matrix:
    """The lower triangle L of a positive definite matrix L L^T."""
    lower: Matrix = []
    for i, row in enumerate(matrix):
        new: list[float] = []
        for j in range(i):
            other = lower[j]
            new.append((row[j] - sum(a * b for a, b in zip(new, other, strict=False))) / other[j])
        new.append(math.sqrt(row[i] - sum(value * value for value in new)))
        lower.append(new)
    return lower


def solved(lower: Matrix, right: Sequence[float]) -> list[float]:
    """x of L L^T x = right."""
    forward: list[float] = []
    for row, value in zip(lower, right, strict=True):
        forward.append((value - sum(a * b for a, b in zip(row, forward, strict=False))) / row[-1])
    count = len(lower)
    found = [0.0] * count
    for i in reversed(range(count)):
        rest = sum(lower[k][i] * found[k] for k in range(i + 1, count))
        found[i] = (forward[i] - rest) / lower[i][i]
    return found


def inverse(matrix: Matrix) -> Matrix:
    """The inverse of a positive definite matrix."""
    lower = cholesky(matrix)
    count = len(matrix)
    return [solved(lower, [1.0 if row == column else 0.0 for row in range(count)]) for column in range(count)]
