"""Samples: ask for one, look at them, cancel one."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Response

from rushes.client import Client
from rushes.jobs import JobRecord, JobState
from rushes_service.api.context import InContext, Queue
from rushes_service.api.problems import documented, invalid
from rushes_service.api.requests import job_of
from rushes_service.api.schemas import Sample, SamplePage, SampleRequest

router = APIRouter(prefix="/v1/samples", tags=["samples"])

MAX_PAGE = 200

CURSOR = re.compile(r"(?P<time>\d{1,12}\.\d{6})-(?P<id>\w{1,64})")

CLOCK_TICK_S = 1e-6
"""Resolution of submission times."""


@router.post(
    "",
    status_code=202,
    summary="Ask for a sample",
    responses={
        202: {"headers": {"Location": {"description": "Address of the sample", "schema": {"type": "string"}}}},
        **documented(401, 403, 413, 422, 503),
    },
)
def submit(request: SampleRequest, context: InContext, response: Response) -> Sample:
    """Queue one sample at interactive priority. Asking again for the very same one changes nothing."""
    job = job_of(request, context.roots)
    context.client.submit([job])
    response.headers["Location"] = f"/v1/samples/{job.id}"
    return Sample.of(context.client.get(job.id))


@router.get("", summary="List samples", responses=documented(401, 422, 503))
def index(
    queue: Queue,
    run: Annotated[str | None, Query(description="Only samples of this run.")] = None,
    state: Annotated[JobState | None, Query(description="Only samples in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(description="`next` of the page before.")] = None,
) -> SamplePage:
    """Samples, newest first."""
    records = page_of(queue, run, state, limit, None if cursor is None else place_of(cursor))
    more = f"{records[-1].created_at:.6f}-{records[-1].id}" if len(records) == limit else None
    return SamplePage(samples=tuple(map(Sample.of, records)), next=more)


@router.get("/{id}", summary="Look at a sample", responses=documented(401, 404, 503))
def show(id: str, queue: Queue) -> Sample:
    """State, progress and result of one sample."""
    return Sample.of(queue.get(id))


@router.delete("/{id}", summary="Cancel a sample", responses=documented(401, 403, 404, 503))
def cancel(id: str, queue: Queue) -> Sample:
    """A queued sample ends at once, a running one at its next step; one that has ended stays as it is."""
    queue.cancel(id)
    return Sample.of(queue.get(id))


def page_of(
    queue: Client, run: str | None, state: JobState | None, limit: int, after: tuple[float, str] | None
) -> list[JobRecord]:
    """Up to `limit` records behind the place `after`.

    All samples of one submission have the same time, so a time alone cannot say where a page ended: records of
    that time are read again, and those shown before are left out.
    """
    if after is None:
        return queue.list(run=run, state=state, limit=limit)
    asked = limit
    while True:
        asked += MAX_PAGE
        found = queue.list(run=run, state=state, limit=asked, before=after[0] + CLOCK_TICK_S)
        rest = [record for record in found if (record.created_at, record.id) < after]
        if len(rest) >= limit or len(found) < asked:
            return rest[:limit]


def place_of(cursor: str) -> tuple[float, str]:
    """Submission time and id that a cursor stands for."""
    match = CURSOR.fullmatch(cursor)
    if match is None:
        raise invalid("cursor", f"{cursor!r} is not the `next` of a page")
    return float(match["time"]), match["id"]
