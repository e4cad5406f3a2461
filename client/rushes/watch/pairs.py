"""Checkpoints that are ready, and the files of both transformers of one step brought together into one sample."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rushes.checkpoints.weights import ExpertPair, Weights
from rushes.watch.finding import Found
from rushes.watch.journal import Journal

OTHER = {"high": "low", "low": "high"}


class Ready(NamedTuple):
    """A checkpoint to sample now. Sorted by `order`: those that do not say their step come last.

    `partner` is the file of the same step for the other of two transformers.
    """

    order: tuple[bool, int, int]
    journal: Journal
    found: Found
    metadata: Mapping[str, Any]
    partner: tuple[Journal, Found] | None = None

    @property
    def files(self) -> list[tuple[Journal, Found]]:
        """What is sampled: one file, or both of a pair."""
        return [(self.journal, self.found)] + ([self.partner] if self.partner else [])

    @property
    def weights(self) -> Weights:
        """The file or directory, or both files of a pair."""
        if self.partner is None:
            return self.found.path
        paths = {str(found.place.expert): found.path for _, found in self.files}
        return ExpertPair(paths["high"], paths["low"])

    @property
    def whole(self) -> Found:
        """The checkpoint; that of a pair is for no transformer of the two in particular."""
        return replace(self.found, place=replace(self.found.place, expert=None)) if self.partner else self.found


def paired(
    ready: Iterable[Ready],
    there: Iterable[tuple[Journal, Found]],
    key: Callable[[Found], Hashable],
    awaited: Callable[[Found], bool],
) -> Iterator[Ready]:
    """Checkpoints to sample, each with its partner. One whose partner is still being written comes with that.

    One whose partner was sampled before, by itself, is sampled together with it now.

    Args:
        there: every checkpoint that lies there.
        key: what the files of one step have in common.
        awaited: True for a checkpoint that will be ready later.
    """
    ready = list(ready)
    new = {one.found.path for one in ready}
    known = {(key(found), found.place.expert): (journal, found) for journal, found in there}
    known |= {(key(one.found), one.found.place.expert): (one.journal, one.found) for one in ready}
    taken: set[Path] = set()
    for one in ready:
        expert = one.found.place.expert
        partner = known.get((key(one.found), OTHER[expert])) if expert else None  # type: ignore[arg-type]
        if partner is None:
            yield one
        elif one.found.path not in taken and (partner[1].path in new or not awaited(partner[1])):
            taken.add(partner[1].path)
            yield one._replace(partner=partner)
