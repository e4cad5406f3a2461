"""The next pair to vote on: the one whose vote is expected to narrow the estimate most."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

from rushes_service.ranking.contenders import Contender
from rushes_service.ranking.estimate import Estimate, logistic
from rushes_service.ranking.votes import Vote

Places = tuple[str, str]
"""Keys of two contenders, in alphabetical order."""

ALMOST = 0.98
"""Pairs whose gain is this share of the best one are equally good; one of them is drawn."""


def expected_gain(estimate: Estimate, first: int, second: int) -> float:
    """Expected gain in nats from one vote on a pair.

    A vote adds the Fisher information p (1 - p) along the difference of two strengths, whose variance is v; the
    determinant of the covariance shrinks by 1 + p (1 - p) v (D-optimal design).
    """
    chance = logistic(estimate.strengths[first] - estimate.strengths[second])
    return 0.5 * math.log1p(chance * (1 - chance) * estimate.spread(first, second))


def next_pair(
    contenders: Sequence[Contender], estimate: Estimate, votes: Sequence[Vote], voter: str, random_: random.Random
) -> tuple[Contender, Contender, str] | None:
    """Two contenders in random order and a row that both have; None when this voter has seen every pair.

    Each voter sees a pair of samples once. Rows take turns, so that every prompt counts.
    """
    seen = {frozenset((vote.left.sample, vote.right.sample)) for vote in votes if vote.voter == voter}
    used = Counter(vote.row for vote in votes)
    found: list[tuple[float, int, int, list[str]]] = []
    for first, second in combinations(range(len(contenders)), 2):
        rows = list(open_rows(contenders[first], contenders[second], seen))
        if rows:
            found.append((expected_gain(estimate, first, second), first, second, rows))
    if not found:
        return None
    best = max(gain for gain, *_ in found)
    _, first, second, rows = random_.choice([entry for entry in found if entry[0] >= best * ALMOST])
    fewest = min(used[row] for row in rows)
    row = random_.choice([row for row in rows if used[row] == fewest])
    pair = [contenders[first], contenders[second]]
    random_.shuffle(pair)
    return pair[0], pair[1], row


def open_rows(first: Contender, second: Contender, seen: set[frozenset[str]]) -> Iterator[str]:
    """Rows in which both contenders have a sample and that the voter has not seen."""
    for row, sample in first.samples.items():
        other = second.samples.get(row)
        if other is not None and frozenset((sample, other)) not in seen:
            yield row


def pairs_needed(count: int) -> int:
    """Votes after which the order of `count` contenders is usually found: N log2 N."""
    return math.ceil(count * math.log2(count)) if count > 1 else 0
