"""The queue as people look at it: the lengths of its lanes, and the samples at their heads."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, ValidationError

from rushes.client.client import Client
from rushes.wire import keys
from rushes.wire.base import FrozenModel
from rushes.wire.connection import reachable
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobState
from rushes_service.catalogue.entries import Entry
from rushes_service.catalogue.reading import entries_of

EXAMPLE_LANE = {"model": "wan2.1-t2v (wan2.1-1.3b)", "priority": "training", "waiting": 12, "running": 1}
EXAMPLE_JOB = {
    "id": "5b8c1f0e9a7d4c3f8e2a6b1d0c9f7e4a",
    "run": "cat",
    "state": "running",
    "prompt": "a cat walking on a fence",
    "checkpoint_step": 100,
    "stage": "denoise",
    "step": 7,
    "total": 20,
    "worker": "box-cuda0",
}


class Lane(FrozenModel):
    """Samples of one base model at one priority."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_LANE]})

    model: str
    priority: str
    waiting: int
    running: int


class Waiting(FrozenModel):
    """A sample that is queued or running."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_JOB]})

    id: str
    run: str
    state: JobState
    cancelling: bool = False
    prompt: str
    checkpoint_step: int
    base: bool = False
    priority: str = "training"
    stage: str = ""
    step: int = 0
    total: int = 0
    worker: str | None = None
    created_at: float = 0.0


def read_models(client: Client) -> list[ModelSpec]:
    """Every base model that has a lane; those written by another version are left out.

    Raises:
        QueueUnavailable: Redis cannot be reached.
    """
    with reachable(client.url):
        texts: Any = client.redis.hvals(keys.LANES)
    found: dict[str, ModelSpec] = {}
    for text in texts:
        try:
            spec = ModelSpec.model_validate_json(text)
        except ValidationError:
            continue
        found[spec.fingerprint] = spec
    return list(found.values())


def head_of(client: Client, lane: str, limit: int) -> list[Waiting]:
    """The first `limit` queued or running samples of a lane (the key of its stream)."""
    with reachable(client.url):
        ids: Any = [fields["id"] for _, fields in client.redis.xrange(lane, count=limit)]
    return [as_waiting(entry) for entry in entries_of(client, ids) if entry.state in ("queued", "running")]


def as_waiting(entry: Entry) -> Waiting:
    """An entry as the queue shows it."""
    job = entry.job
    return Waiting(
        id=entry.id,
        run=job.get("run", ""),
        state=JobState(entry.state),
        cancelling=entry.cancelling,
        prompt=job.get("prompt", {}).get("prompt", ""),
        checkpoint_step=job.get("step", 0),
        base=not job.get("checkpoint"),
        priority=job.get("priority", "training"),
        stage=entry.stage,
        step=entry.step,
        total=entry.total,
        worker=entry.worker,
        created_at=entry.created_at,
    )
