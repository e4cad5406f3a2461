"""What is being made, what waits, who works, and which base models there are."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field, ValidationError

from rushes import keys
from rushes.architectures import ARCHITECTURES
from rushes.client import Client
from rushes.connection import reachable
from rushes.jobs import Frozen, JobState, ModelSpec
from rushes_service.api.context import Queue
from rushes_service.api.problems import documented
from rushes_service.api.schemas import EXAMPLE_SAMPLE
from rushes_service.catalogue.reading import Entry, entries_of

router = APIRouter(prefix="/v1", tags=["queue"])

MAX_WAITING = 200

EXAMPLE_LANE = {"model": "wan2.1-t2v (wan2.1-1.3b)", "priority": "training", "waiting": 12, "running": 1}
EXAMPLE_JOB = {
    "id": EXAMPLE_SAMPLE["id"],
    "run": "cat",
    "state": "running",
    "prompt": "a cat walking on a fence",
    "checkpoint_step": 100,
    "stage": "denoise",
    "step": 7,
    "total": 20,
    "worker": "box-cuda0",
}


class Workers(Frozen):
    """What each live worker is doing; a worker that says nothing for a minute is no longer listed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"workers": [{"name": "box-cuda0", "device": "cuda:0", "state": "idle"}]}]}
    )

    workers: tuple[dict[str, str], ...]


class Lane(Frozen):
    """Samples that need one base model, at one priority."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_LANE]})

    model: str
    priority: str
    waiting: int
    running: int


class Waiting(Frozen):
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


class QueueState(Frozen):
    """All that is open: lanes, workers, and the samples at the head of the queue, running ones first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"lanes": [EXAMPLE_LANE], "workers": [], "samples": [EXAMPLE_JOB], "delayed": 0}]
        }
    )

    lanes: tuple[Lane, ...]
    workers: tuple[dict[str, str], ...]
    samples: tuple[Waiting, ...]
    delayed: int = Field(description="Samples that wait for another attempt.")


class Model(Frozen):
    """A base model that samples were asked of."""

    label: str
    spec: ModelSpec


class Family(Frozen):
    """A model family that this version knows."""

    name: str
    sampled: bool = Field(description="False for a family that this version cannot sample yet.")
    required: tuple[str, ...] = Field(description="Options that a prompt must have.")


class Models(Frozen):
    """Base models in use, and the families there are."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "models": [
                        {"label": "wan2.1-t2v (wan)", "spec": {"architecture": "wan2.1-t2v", "model": "/models/wan"}}
                    ],
                    "families": [{"name": "wan2.1-t2v", "sampled": True, "required": []}],
                }
            ]
        }
    )

    models: tuple[Model, ...]
    families: tuple[Family, ...]


@router.get("/workers", summary="List workers", responses=documented(401, 503))
def workers(queue: Queue) -> Workers:
    """Workers that are alive."""
    return Workers(workers=tuple(queue.workers()))


@router.get("/queue", summary="What waits and what runs", responses=documented(401, 422, 503))
def state(
    queue: Queue,
    limit: Annotated[int, Query(ge=1, le=MAX_WAITING, description="Samples shown of each lane.")] = 50,
) -> QueueState:
    """Lanes with their lengths, workers, and the next samples of each lane in the order in which they will run."""
    models = read_models(queue)
    found: list[Waiting] = []
    lanes: list[Lane] = []
    for name, spec in sorted(models.items(), key=lambda item: order(item[0])):
        lane, samples = read_lane(queue, name, spec, limit)
        if lane.waiting or lane.running:
            lanes.append(lane)
        found += samples
    with reachable(queue.url):
        delayed = queue.redis.zcard(keys.DELAYED)
    running = [sample for sample in found if sample.state is JobState.RUNNING]
    waiting = [sample for sample in found if sample.state is not JobState.RUNNING]
    return QueueState(
        lanes=tuple(lanes), workers=tuple(queue.workers()), samples=(*running, *waiting), delayed=int(delayed)
    )


@router.get("/models", summary="Base models and families", responses=documented(401, 503))
def models(queue: Queue) -> Models:
    """Base models that samples were asked of, and the families that this version knows."""
    specs = {spec.fingerprint: spec for spec in read_models(queue).values()}
    families = [
        Family(name=name, sampled=spec.sampled, required=tuple(sorted(spec.requires)))
        for name, spec in sorted(ARCHITECTURES.items())
    ]
    return Models(models=tuple(Model(label=spec.label, spec=spec) for spec in specs.values()), families=tuple(families))


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
