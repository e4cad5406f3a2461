"""The queue: lanes, workers, samples at the head, base models."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from rushes.client.lanes import lanes as read_lanes
from rushes.families.table import ARCHITECTURES
from rushes.wire import keys
from rushes.wire.base import FrozenModel
from rushes.wire.connection import reachable
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobState
from rushes_service.api.context import Queue
from rushes_service.api.http.problems import documented
from rushes_service.catalogue.waiting import EXAMPLE_JOB, EXAMPLE_LANE, Lane, Waiting, head_of, read_models

router = APIRouter(prefix="/v1", tags=["queue"])

MAX_WAITING = 200


class Workers(FrozenModel):
    """Announcements of the live workers; a worker is listed for a minute after its last one."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"workers": [{"name": "box-cuda0", "device": "cuda:0", "state": "idle"}]}]}
    )

    workers: tuple[dict[str, str], ...]


class QueueState(FrozenModel):
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


class Model(FrozenModel):
    """A base model that has had samples."""

    label: str
    spec: ModelSpec


class Family(FrozenModel):
    """A model family that this version knows."""

    name: str
    sampled: bool = Field(description="False for a family that this version cannot sample yet.")
    required: tuple[str, ...] = Field(description="Options that a prompt must have.")


class Models(FrozenModel):
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
    found: list[Waiting] = []
    lanes: list[Lane] = []
    for lane in read_lanes(queue):
        if lane.queued or lane.running:
            lanes.append(Lane(model=lane.model, priority=lane.priority, waiting=lane.queued, running=lane.running))
            found += head_of(queue, lane.key, limit)
    with reachable(queue.url):
        delayed = queue.redis.zcard(keys.DELAYED)
    running = [sample for sample in found if sample.state is JobState.RUNNING]
    waiting = [sample for sample in found if sample.state is not JobState.RUNNING]
    return QueueState(
        lanes=tuple(lanes), workers=tuple(queue.workers()), samples=(*running, *waiting), delayed=int(delayed)
    )


@router.get("/models", summary="Base models and families", responses=documented(401, 503))
def models(queue: Queue) -> Models:
    """Base models that have had samples, and the families that this version knows."""
    families = [
        Family(name=name, sampled=spec.sampled, required=tuple(sorted(spec.requires)))
        for name, spec in sorted(ARCHITECTURES.items())
    ]
    return Models(
        models=tuple(Model(label=spec.label, spec=spec) for spec in read_models(queue)), families=tuple(families)
    )
