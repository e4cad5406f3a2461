"""One sample of the catalogue, as Redis has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

# Of lua/read.lua, in its order.
FIELDS = ("payload", "state", "stage", "step", "total", "created_at", "finished_at", "worker", "cancelling", "result")


@dataclass(frozen=True)
class Entry:
    """One sample as Redis has it. `job` and `result` are the JSON objects, empty where there is none to read."""

    id: str
    state: str
    stage: str
    step: int
    total: int
    created_at: float
    finished_at: float | None
    worker: str | None
    cancelling: bool
    job: dict[str, Any]
    result: dict[str, Any]


def as_entry(job_id: str, fields: dict[str, str | None]) -> Entry:
    """One record's fields with their types."""
    finished = fields["finished_at"]
    return Entry(
        id=job_id,
        state=fields["state"] or "dead",
        stage=fields["stage"] or "",
        step=int(fields["step"] or 0),
        total=int(fields["total"] or 0),
        created_at=float(fields["created_at"] or 0),
        finished_at=float(finished) if finished else None,
        worker=fields["worker"] or None,
        cancelling=fields["cancelling"] == "1",
        job=parsed(fields["payload"]),
        result=parsed(fields["result"]),
    )


def parsed(text: str | None) -> dict[str, Any]:
    """A JSON object; an empty one for missing or unreadable text."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
