"""Samples: submit, list, show, cancel, retry, mark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from rushes.wire.results import JobState
from rushes_service.api.context import InContext, Queue
from rushes_service.api.http.problems import documented, invalid
from rushes_service.api.schemas import Sample, SamplePage, SampleRequest
from rushes_service.api.services.idempotency import IdempotencyKey, once
from rushes_service.api.services.requests import job_of
from rushes_service.catalogue.about import mark
from rushes_service.catalogue.listing import page_of

router = APIRouter(prefix="/v1/samples", tags=["samples"])

MAX_PAGE = 200

CURSOR = re.compile(r"[0-9]{1,12}\.[0-9]{6}")

ACCEPTED = {
    202: {"headers": {"Location": {"description": "Address of the sample", "schema": {"type": "string"}}}},
}


@router.post(
    "",
    status_code=202,
    summary="Ask for a sample",
    response_model=Sample,
    responses={**ACCEPTED, **documented(401, 403, 409, 413, 422, 429, 503)},
)
def submit(
    asked: SampleRequest, request: Request, context: InContext, response: Response, key: IdempotencyKey = None
) -> Response:
    """Queue one sample at interactive priority. Asking again for the very same one changes nothing."""

    def make() -> Sample:
        job = job_of(asked, context.roots)
        context.client.submit([job])
        return Sample.of(context.client.get(job.id))

    return once(context, request, key, asked, make, location=lambda sample: f"/v1/samples/{sample.id}")


@router.get("", summary="List samples", responses=documented(401, 422, 503))
def index(
    queue: Queue,
    run: Annotated[str | None, Query(description="Only samples of this run.")] = None,
    state: Annotated[list[JobState] | None, Query(description="Only samples in one of these states.")] = None,
    order: Annotated[Literal["newest", "oldest"], Query(description="Which come first.")] = "newest",
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(description="`next` of the page before.")] = None,
) -> SamplePage:
    """Samples by submission time."""
    if cursor is not None and CURSOR.fullmatch(cursor) is None:
        raise invalid("cursor", f"{cursor!r} is not the `next` of a page")
    states = frozenset(found.value for found in state or ())
    ids, following = page_of(queue, run, states, order == "oldest", limit, cursor)
    return SamplePage(samples=samples_of(queue, ids), next=following)


@router.get("/{id}", summary="Look at a sample", responses=documented(401, 404, 503))
def show(id: str, queue: Queue) -> Sample:
    """State, progress and result of one sample."""
    return Sample.of(queue.get(id))


@router.delete("/{id}", summary="Cancel a sample", responses=documented(401, 403, 404, 503))
def cancel(id: str, queue: Queue) -> Sample:
    """A queued sample ends at once, a running one at its next step; one that has ended stays as it is."""
    queue.cancel(id)
    return Sample.of(queue.get(id))


@router.post("/{id}/retry", summary="Try a sample again", responses=documented(401, 403, 404, 422, 429, 503))
def retry(id: str, queue: Queue) -> Sample:
    """Queue a sample that has ended again, as it was; one that is queued or running stays as it is."""
    queue.retry(id)
    return Sample.of(queue.get(id))


@router.put("/{id}/favourite", status_code=204, summary="Mark a sample", responses=documented(401, 403, 404, 503))
def favour(id: str, queue: Queue) -> None:
    """Mark a sample as a favourite. Marks are shared by all users of this server."""
    mark(queue, queue.get(id).run, id, favourite=True)


@router.delete("/{id}/favourite", status_code=204, summary="Unmark a sample", responses=documented(401, 403, 404, 503))
def unfavour(id: str, queue: Queue) -> None:
    """Take the mark away."""
    mark(queue, queue.get(id).run, id, favourite=False)


def samples_of(queue: Queue, ids: Sequence[str]) -> tuple[Sample, ...]:
    """The samples with these ids, those that still have a record."""
    return tuple(map(Sample.of, queue.records(ids)))
