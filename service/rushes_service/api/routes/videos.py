"""OpenAI's Videos API over our samples: create, remix, list, show, download, cancel.

A model is a family or the label of a base model that is in use; fields that OpenAI does not know (`checkpoint`,
`strength`, `seed`, `run`) go into the client's extra body.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response

from rushes_service.api.context import InContext, Queue
from rushes_service.api.http.files import file_responses
from rushes_service.api.http.problems import VIDEOS, documented
from rushes_service.api.http.security import FORM
from rushes_service.api.routes.media import media, thumbnail
from rushes_service.api.routes.samples import samples_of
from rushes_service.api.schemas import PromptChanges, ResampleRequest
from rushes_service.api.services.forms import FormRoute
from rushes_service.api.services.requests import job_of
from rushes_service.api.services.resubmit import changed
from rushes_service.api.services.videos import (
    FORM_SCHEMA,
    Deleted,
    RemixRequest,
    Video,
    VideoRequest,
    Videos,
    sample_request,
)
from rushes_service.catalogue.listing import page_of

router = APIRouter(prefix=VIDEOS, tags=["videos"], route_class=FormRoute)

WIDEST = 640
"""Pixels of a still; there are no wider ones."""


@router.post(
    "",
    summary="Ask for a clip",
    openapi_extra={"requestBody": {"content": {FORM: {"schema": FORM_SCHEMA}}}},
    responses=documented(401, 403, 413, 422, 429, 503, 507),
)
def create(asked: VideoRequest, context: InContext) -> Video:
    """Queue one clip at interactive priority. The same fields may come as a form, as OpenAI's clients send them."""
    job = job_of(sample_request(asked, context.client), context.roots)
    context.client.submit([job])
    return Video.of(context.client.get(job.id))


@router.post(
    "/{id}/remix", summary="The same with another prompt", responses=documented(401, 403, 404, 409, 413, 422, 429, 503)
)
def remix(id: str, asked: RemixRequest, context: InContext) -> Video:
    """Queue a clip like this one, same seed and checkpoint, with another prompt."""
    changes = ResampleRequest(prompt=PromptChanges(prompt=asked.prompt))
    job = changed(context.client.get(id), changes, context.roots)
    context.client.submit([job])
    return Video.of(context.client.get(job.id))


@router.get("", summary="List clips", responses=documented(401, 404, 422, 503))
def index(
    queue: Queue,
    after: Annotated[str | None, Query(description="Id of the last clip of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By time of creation.")] = "desc",
) -> Videos:
    """Samples of every run, pictures too."""
    cursor = f"{queue.get(after).created_at:.6f}" if after else None
    ids, following = page_of(queue, None, frozenset(), order == "asc", limit, cursor)
    found = tuple(map(Video.of, samples_of(queue, ids)))
    ends = {"first_id": found[0].id, "last_id": found[-1].id} if found else {}
    return Videos(data=found, has_more=following is not None, **ends)


@router.get("/{id}", summary="Look at a clip", responses=documented(401, 404, 503))
def show(id: str, queue: Queue) -> Video:
    """Status and progress of one clip."""
    return Video.of(queue.get(id))


@router.delete("/{id}", summary="Cancel a clip", responses=documented(401, 403, 404, 503))
def delete(id: str, queue: Queue) -> Deleted:
    """A clip that is queued or being made is cancelled; one that has ended stays."""
    open_ = not queue.get(id).state.terminal
    queue.cancel(id)
    return Deleted(id=id, deleted=open_)


@router.get(
    "/{id}/content",
    summary="Download a clip",
    response_class=FileResponse,
    responses={
        **file_responses("image/png", "video/mp4", "image/webp"),
        **documented(400, 401, 403, 404, 409, 416, 422, 503),
    },
)
def content(
    id: str,
    request: Request,
    context: InContext,
    variant: Annotated[Literal["video", "thumbnail"], Query(description="The file, or a still of it.")] = "video",
) -> Response:
    """The file of a clip that is completed, as `/v1/samples` serves it."""
    return media(id, request, context) if variant == "video" else thumbnail(id, request, context, WIDEST)
