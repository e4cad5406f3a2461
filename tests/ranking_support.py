"""Simulated voters: votes drawn from known strengths on the pairs that the ranking itself chooses."""

from __future__ import annotations

import random
from itertools import combinations

from rushes_service.ranking.estimate import Estimate, Outcome, estimate, logistic
from rushes_service.ranking.pairing import ALMOST, expected_gain


def simulated(strengths: list[float], votes: int, seed: int, *, noisy: bool = True) -> Estimate:
    """The estimate after `votes` votes by a voter for whom these are the strengths.

    Args:
        noisy: votes are drawn by the model's probabilities; else the stronger one always wins.
    """
    drawn = random.Random(seed)
    outcomes: list[Outcome] = []
    found = estimate(len(strengths), outcomes)
    for _ in range(votes):
        gains = {pair: expected_gain(found, *pair) for pair in combinations(range(len(strengths)), 2)}
        best = max(gains.values())
        first, second = drawn.choice([pair for pair, gain in gains.items() if gain >= best * ALMOST])
        gap = strengths[first] - strengths[second]
        won = drawn.random() < logistic(gap) if noisy else gap > 0
        outcomes.append(Outcome(first, second, float(won)))
        found = estimate(len(strengths), outcomes)
    return found


def centred(strengths: list[float]) -> list[float]:
    """Strengths relative to their mean."""
    mean = sum(strengths) / len(strengths)
    return [value - mean for value in strengths]


def agreement(first: list[float], second: list[float]) -> float:
    """Share of pairs that two lists order alike."""
    pairs = list(combinations(range(len(first)), 2))
    return sum((first[a] - first[b]) * (second[a] - second[b]) > 0 for a, b in pairs) / len(pairs)
