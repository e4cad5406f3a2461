"""For supervisors: is the process alive, and can it do anything."""

from __future__ import annotations

from fastapi import APIRouter

from rushes_service.api.context import Queue
from rushes_service.api.problems import documented
from rushes_service.api.schemas import Health

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:
    """Answers as long as the process runs, with or without Redis."""
    return Health(status="ok")


@router.get("/readyz", summary="Can samples be taken?", responses=documented(503))
def readyz(queue: Queue) -> Health:
    """Answers 200 when Redis can be reached, else 503 with the reason."""
    queue.ping()
    return Health(status="ok")
