"""How many samples are in which state, without reading their records."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rushes import keys
from rushes.client import Client
from rushes.connection import reachable
from rushes.jobs import JobState

CHUNK = 5000
"""States read per round trip."""


def count_states(client: Client, run: str) -> dict[JobState, int]:
    """Samples of a run by state; states that none is in are left out."""
    counts: Counter[str] = Counter()
    start = 0
    while True:
        with reachable(client.url):
            ids: Any = client.redis.zrange(keys.run(run), start, start + CHUNK - 1)
            pipeline = client.redis.pipeline(transaction=False)
            for job_id in ids:
                pipeline.hget(keys.job(job_id), "state")
            counts.update(state for state in pipeline.execute() if state)
        if len(ids) < CHUNK:
            return {JobState(state): count for state, count in sorted(counts.items())}
        start += CHUNK
