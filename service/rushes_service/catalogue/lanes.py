"""The lanes of the queue: how long they are, and what is at their heads."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, ValidationError

from rushes.client.client import Client
from rushes.wire import keys
from rushes.wire.connection import reachable
from rushes.wire.jobs import FrozenModel, JobState, ModelSpec
from rushes_service.catalogue.reading import Entry, entries_of

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
    """Samples that need one base model, at one priority."""

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


def order(lane: str) -> tuple[int, str]:
    """Lanes that are served first come first."""
    return keys.PRIORITIES.index(lane.rsplit(":", 1)[-1]), lane


def read_models(queue: Client) -> dict[str, ModelSpec]:
    """Lanes and their base models; one that this version cannot read is left out."""
    with reachable(queue.url):
        lanes: Any = queue.redis.hgetall(keys.LANES)
    found: dict[str, ModelSpec] = {}
    for name, text in lanes.items():
        try:
            found[name] = ModelSpec.model_validate_json(text)
        except ValidationError:
            continue
    return found


def read_lane(queue: Client, name: str, spec: ModelSpec, limit: int) -> tuple[Lane, list[Waiting]]:
    """The lane called `name` and its first samples."""
    with reachable(queue.url):
        length: Any = queue.redis.xlen(name)
        groups: Any = queue.redis.xinfo_groups(name) if length else []
        ids: Any = [fields["id"] for _, fields in queue.redis.xrange(name, count=limit)]
    running = sum(group["pending"] for group in groups if group["name"] == keys.GROUP)
    samples = [as_waiting(entry) for entry in entries_of(queue, ids) if entry.state in ("queued", "running")]
    lane = Lane(model=spec.label, priority=name.rsplit(":", 1)[-1], waiting=max(0, length - running), running=running)
    return lane, samples


def as_waiting(entry: Entry) -> Waiting:
    """A record as the queue shows it."""
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
