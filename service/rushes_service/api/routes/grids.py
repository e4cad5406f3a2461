"""Grids: checkpoints x prompts x strengths x seeds; only missing samples are queued."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from rushes_service.api.context import InContext
from rushes_service.api.http.problems import documented
from rushes_service.api.schemas import GridAnswer, GridRequest, SweepRequest
from rushes_service.api.services.grids import submit_missing, submit_sweep
from rushes_service.api.services.idempotency import IdempotencyKey, once

router = APIRouter(prefix="/v1", tags=["grids"])


@router.post(
    "/grids",
    status_code=202,
    summary="Ask for a grid",
    response_model=GridAnswer,
    responses=documented(401, 403, 409, 413, 422, 429, 503),
)
def submit(asked: GridRequest, request: Request, context: InContext, key: IdempotencyKey = None) -> Response:
    """Queue the missing samples of a grid of checkpoints x prompts x strengths x seeds, at interactive priority."""
    return once(context, request, key, asked, lambda: submit_missing(asked, context))


@router.post(
    "/samples/{id}/sweep",
    status_code=202,
    summary="Sweep a checkpoint's strength",
    response_model=GridAnswer,
    responses=documented(401, 403, 404, 409, 413, 422, 429, 503),
)
def sweep(id: str, asked: SweepRequest, request: Request, context: InContext, key: IdempotencyKey = None) -> Response:
    """Queue a sample's checkpoint at several strengths and seeds, as a run `<run>-sweep-<step>`."""
    return once(context, request, key, asked, lambda: submit_sweep(id, asked, context))
