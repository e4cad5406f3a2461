"""For supervisors: is the process alive, and can it do anything."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from rushes_service.api.context import InContext, Queue
from rushes_service.api.http.problems import documented
from rushes_service.api.schemas import Health

router = APIRouter(tags=["health"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:
    """Answers as long as the process runs, with or without Redis."""
    return Health(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", summary="Can samples be taken?", responses=documented(503))
def readyz(queue: Queue) -> Health:
    """Answers 200 when Redis can be reached, else 503 with the reason."""
    queue.ping()
    return Health(status="ok")


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented(401, 503)},
)
def metrics(context: InContext) -> Response:
    """Queue lengths, waiting times, times per stage, failures by reason, memory; in Prometheus' text format."""
    return Response(generate_latest(context.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
