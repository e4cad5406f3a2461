"""Training runs: list, details, title and note, grid, checkpoints."""

from __future__ import annotations

import gzip
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from rushes.client.client import Client
from rushes.client.control import cancel_all
from rushes.errors import JobNotFound
from rushes.wire import keys
from rushes.wire.base import FrozenModel
from rushes.wire.connection import reachable
from rushes.wire.results import JobState
from rushes_service.api.context import InContext, Queue
from rushes_service.api.http.problems import documented
from rushes_service.api.schemas import unicode_only
from rushes_service.catalogue import Grid, grid_of
from rushes_service.catalogue.about import About, about, describe
from rushes_service.catalogue.checkpoints import Known, checkpoints_of
from rushes_service.catalogue.counting import count_states

router = APIRouter(prefix="/v1", tags=["runs"])

MAX_RUNS = 200

GZIP_FROM_BYTES = 4096
"""A grid of thousands of samples shrinks to a tenth; a small answer is one packet either way."""

EXAMPLE_RUN = {
    "name": "cat-3f9a01",
    "title": "cat, rank 16",
    "archived": False,
    "samples": 120,
    "last_submitted_at": 1767225600.0,
}


EXAMPLE_CHECKPOINT = {"path": "/data/output/cat-000100.safetensors", "step": 100, "samples": 3, "kept": True}


class RunSummary(About):
    """One run as it is listed."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_RUN]})

    name: str
    samples: int = Field(description="Samples whose records are kept.")
    last_submitted_at: float = Field(description="Seconds since 1970.")


class Runs(FrozenModel):
    """Runs, the one submitted to last first. `next` is the `offset` of the page after this one, null on the last."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"runs": [EXAMPLE_RUN], "next": None}]})

    runs: tuple[RunSummary, ...]
    next: int | None = None


class RunDetails(RunSummary):
    """One run, its samples counted by state."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**EXAMPLE_RUN, "states": {"done": 118, "failed": 2}}]})

    states: dict[JobState, int]


class RunChanges(FrozenModel):
    """Changes of a run's title, note and archive state. A field that is left out stays; null removes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "cat, rank 16", "archived": False}]})

    title: str | None = Field(default=None, max_length=200, pattern=r"^[^\x00-\x1f]*$")
    note: str | None = Field(default=None, max_length=10_000, pattern=r"^[^\x00]*$")
    archived: bool = False

    @model_validator(mode="after")
    def refuse_broken_text(self) -> Self:
        """As in a request for a sample."""
        return unicode_only(self)


class Checkpoints(FrozenModel):
    """Checkpoints of a run: sampled ones, and files beside them that never were."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"checkpoints": [EXAMPLE_CHECKPOINT]}]})

    checkpoints: tuple[Known, ...]


@router.get("/runs", summary="List runs", responses=documented(401, 422, 503))
def runs(
    queue: Queue,
    archived: Annotated[bool | None, Query(description="Only those that are, or are not, archived.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_RUNS)] = MAX_RUNS,
    offset: Annotated[int, Query(ge=0, le=10**9, description="`next` of the page before.")] = 0,
) -> Runs:
    """Runs that have samples, the one submitted to last first."""
    with reachable(queue.url):
        found: Any = queue.redis.zrevrange(keys.RUNS, offset, offset + limit, withscores=True)
    more = offset + limit if len(found) > limit else None
    listed = summaries(queue, found[:limit])
    return Runs(runs=tuple(run for run in listed if archived in (None, run.archived)), next=more)


@router.get(
    "/runs/{run:path}/grid", summary="Everything a run has made, in its place", responses=documented(401, 404, 503)
)
def grid(run: str, queue: Queue, request: Request) -> Grid:
    """Prompts as rows, checkpoints as columns, the base model first, and every sample in its place."""
    body = grid_of(queue, run).model_dump_json(exclude_defaults=True).encode()
    headers = {"Vary": "Accept-Encoding", "Cache-Control": "no-store"}
    if len(body) >= GZIP_FROM_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
        body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
    return Response(body, media_type="application/json", headers=headers)  # type: ignore[return-value]


@router.get("/runs/{run:path}/checkpoints", summary="Checkpoints of a run", responses=documented(401, 404, 503))
def checkpoints(run: str, queue: Queue, context: InContext) -> Checkpoints:
    """Every checkpoint that was sampled, and those in the run's directory that never were, by step.

    Directories outside the server's roots are skipped.
    """
    return Checkpoints(checkpoints=tuple(checkpoints_of(queue, known(queue, run).name, context.roots.holds)))


@router.post(
    "/runs/{run:path}/cancel", summary="Cancel what a run still waits for", responses=documented(401, 403, 404, 503)
)
def cancel(run: str, queue: Queue) -> RunDetails:
    """Queued samples of the run end at once, running ones at their next step."""
    cancel_all(queue, run=known(queue, run).name)
    return show(run, queue)


@router.get("/runs/{run:path}", summary="Look at a run", responses=documented(401, 404, 503))
def show(run: str, queue: Queue) -> RunDetails:
    """A run with its samples counted by state."""
    found = known(queue, run)
    return RunDetails(**found.model_dump(), states=count_states(queue, run))


@router.patch("/runs/{run:path}", summary="Rename or archive a run", responses=documented(401, 403, 404, 413, 422, 503))
def change(run: str, changes: RunChanges, queue: Queue) -> RunDetails:
    """Give a run a title or a note, or put it away. Its name stays: it is part of every sample's id."""
    known(queue, run)
    describe(queue, run, changes.model_dump(include=changes.model_fields_set))
    return show(run, queue)


def known(queue: Client, run: str) -> RunSummary:
    """The run called `run`.

    Raises:
        JobNotFound: it has no samples.
    """
    with reachable(queue.url):
        score = queue.redis.zscore(keys.RUNS, run)
    if score is None:
        raise JobNotFound(
            f"no samples of a run {run!r} are kept; `rushes jobs list` and GET /v1/runs show what there is"
        )
    return summaries(queue, [(run, score)])[0]


def summaries(queue: Client, found: list[Any]) -> list[RunSummary]:
    """Runs and the times they were last submitted to, as they are listed."""
    with reachable(queue.url):
        pipeline = queue.redis.pipeline(transaction=False)
        for run, _ in found:
            pipeline.zcard(keys.run(run))
        counts: list[int] = pipeline.execute()
    said = about(queue, [run for run, _ in found])
    return [
        RunSummary(name=run, samples=count, last_submitted_at=score, **words.model_dump())
        for (run, score), count, words in zip(found, counts, said, strict=True)
    ]
