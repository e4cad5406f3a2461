"""How many samples are in which state, without reading their records."""

from __future__ import annotations

from collections import Counter
from itertools import count

from rushes.client.client import Client
from rushes.wire import keys
from rushes.wire.results import JobState
from rushes_service.catalogue.scripts import call

PIECE = 5000
"""States read per call; some milliseconds of Redis' time."""


def count_states(client: Client, run: str) -> dict[JobState, int]:
    """Samples of a run by state; states that none is in are left out."""
    counts: Counter[str] = Counter()
    for start in count(0, PIECE):
        looked_at, flat = call(client, "count", keys.run(run), start, start + PIECE - 1)
        for state, number in zip(flat[::2], flat[1::2], strict=True):
            counts[state] += int(number)
        if looked_at < PIECE:
            break
    return {JobState(state): number for state, number in sorted(counts.items())}
