"""Blind ranking: pairs, votes, the ranking, its export, and the checkpoint to keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from rushes_service.api.context import InContext
from rushes_service.api.http.files import file_response, file_responses
from rushes_service.api.http.problems import documented
from rushes_service.api.schemas import RunName
from rushes_service.api.services.ranking import (
    MAX_RUNS,
    Pair,
    VoteRequest,
    add_vote,
    pair_for,
    ranking_of,
    store_of,
    withdraw_vote,
)
from rushes_service.catalogue.checkpoints import existing
from rushes_service.ranking.table import Ranking, as_csv
from rushes_service.ranking.votes import Vote

router = APIRouter(prefix="/v1", tags=["ranking"])

Runs = Annotated[
    list[RunName], Query(alias="run", min_length=1, max_length=MAX_RUNS, description="Runs to rank, together.")
]
Name = Annotated[str, Query(min_length=1, max_length=60, description="Who votes.")]


@router.get("/ranking", summary="The ranking", responses=documented(401, 404, 422, 503))
def show(
    context: InContext, run: Runs, voter: Annotated[str | None, Query(description="Only this voter's votes.")] = None
) -> Ranking:
    """Every checkpoint with its strength and 95 % interval, the best first."""
    return ranking_of(context, run, voter)


@router.get("/ranking/pair", summary="The next pair to vote on", responses=documented(401, 404, 409, 422, 503))
def pair(context: InContext, run: Runs, voter: Name) -> Pair:
    """Two samples of one prompt and seed, chosen so that the vote narrows the ranking most."""
    return pair_for(context, run, voter)


@router.post("/ranking/votes", status_code=201, summary="Vote", responses=documented(401, 403, 404, 413, 422, 429, 503))
def vote(asked: VoteRequest, context: InContext) -> Vote:
    """Keep a vote on a pair, in Redis and beside the samples."""
    return add_vote(context, asked)


@router.get(
    "/ranking/votes",
    summary="Export the votes",
    response_model=None,
    responses={
        200: {
            "content": {
                "application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Vote"}}},
                "text/csv": {"schema": {"type": "string"}},
            }
        },
        **documented(401, 404, 422, 503),
    },
)
def export(
    context: InContext, run: Runs, format: Annotated[Literal["json", "csv"], Query(description="Format.")] = "json"
) -> Response:
    """Every vote, in the order in which they were given."""
    votes = store_of(context, context.contests.of(run)).votes()
    if format == "csv":
        headers = {"Content-Disposition": 'attachment; filename="votes.csv"'}
        return Response(as_csv(votes), media_type="text/csv", headers=headers)
    return Response(json.dumps([vote.model_dump(mode="json") for vote in votes]), media_type="application/json")


@router.delete(
    "/ranking/votes/{id}", status_code=204, summary="Withdraw a vote", responses=documented(401, 403, 404, 422, 503)
)
def withdraw(id: str, context: InContext, run: Runs) -> None:
    """Take a vote back, as if it had not been given."""
    withdraw_vote(context, run, id)


@router.get(
    "/samples/{id}/checkpoint",
    summary="Download the checkpoint",
    response_class=FileResponse,
    responses={**file_responses("application/octet-stream"), **documented(400, 401, 403, 404, 416, 503)},
)
def checkpoint(id: str, request: Request, context: InContext) -> Response:
    """The LoRA file that a sample was made with, while it is there; only files below the server's roots are sent."""
    record = context.client.get(id)
    if record.job is None or record.job.checkpoint is None:
        raise HTTPException(404, "this sample shows the base model: it has no checkpoint")
    found = existing(record.job.checkpoint.model_dump())
    if found is None:
        raise HTTPException(404, "the checkpoint is gone: it was moved or deleted after it was sampled")
    path = Path(found).resolve()
    if path.is_dir():
        raise HTTPException(404, f"{path} is a directory of several files: take them from there")
    if not context.roots.holds(path) or path.suffix != ".safetensors":
        raise HTTPException(403, f"{path} lies outside the directories that requests may name (RUSHES_ROOTS)")
    answer = file_response(path, "application/octet-stream", request)
    answer.headers["Content-Disposition"] = (
        f'attachment; filename="{Path(record.job.checkpoint.source or found).name.encode("ascii", "replace").decode()}"'
    )
    return answer
