"""Training runs that have samples, and the workers that make them."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import ConfigDict

from rushes.jobs import Frozen
from rushes_service.api.context import Queue
from rushes_service.api.problems import documented

router = APIRouter(prefix="/v1", tags=["runs"])


class Runs(Frozen):
    """Names of runs, the one submitted to last first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"runs": ["cat-3f9a01", "interactive"]}]})

    runs: tuple[str, ...]


class Workers(Frozen):
    """What each live worker is doing; a worker that says nothing for a minute is no longer listed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"workers": [{"name": "box-cuda0", "device": "cuda:0", "state": "idle"}]}]}
    )

    workers: tuple[dict[str, str], ...]


@router.get("/runs", summary="List runs", responses=documented(401, 503))
def runs(queue: Queue) -> Runs:
    """Runs that have samples."""
    return Runs(runs=tuple(queue.runs()))


@router.get("/workers", summary="List workers", responses=documented(401, 503))
def workers(queue: Queue) -> Workers:
    """Workers that are alive."""
    return Workers(workers=tuple(queue.workers()))
