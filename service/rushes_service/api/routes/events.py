"""Live events: the event stream of Redis as server-sent events.

The ids are the stream's own, so a browser that comes back with `Last-Event-ID` goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from sse_starlette import EventSourceResponse, ServerSentEvent

from rushes.errors import QueueUnavailable
from rushes_service.api.background.events_consumer import read_event
from rushes_service.api.background.feed import Feed, order
from rushes_service.api.context import InContext
from rushes_service.api.http.problems import documented

router = APIRouter(tags=["events"])
log = logging.getLogger(__name__)

PING_S = 15
"""Between heartbeats; below the idle time-out of common proxies (60 s)."""

RETRY_MS = 2000
"""Pause before a browser reconnects, in milliseconds."""

ENTRY_ID = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")
"""Redis takes numbers of 64 bits: some of 20 digits, all of 18."""

DESCRIPTION = """
Server-sent events. Each has the id of its stream entry, the event name `queued`, `started`, `progress`, `retry`,
`done`, `failed`, `cancelling`, `cancelled`, `superseded`, `dead` or `handed_back`, and as data the JSON
`{"type": ..., "id": <sample>, "run": ..., "data": {...}}`.

The first event is `ready`, or `reset` when events after `Last-Event-ID` are no longer kept: then read the samples
again.
"""

EXAMPLE = (
    'id: 1767225640000-0\r\nevent: progress\r\ndata: {"type": "progress", "id": "5b8c1f0e9a7d4c3f8e2a6b1d0c9f7e4a", '
    '"run": "cat", "data": {"stage": "denoise", "step": 7, "total": 20}}\r\n\r\n'
)


@router.get(
    "/v1/events",
    summary="Follow what happens",
    description=DESCRIPTION,
    response_class=EventSourceResponse,
    responses={200: {"content": {"text/event-stream": {"example": EXAMPLE}}}, **documented(401, 503)},
)
async def events(
    context: InContext,
    run: Annotated[str | None, Query(description="Only events of this run.")] = None,
    last_event_id: Annotated[str | None, Header(description="Go on after this event.")] = None,
    after: Annotated[str | None, Query(description="The same, for clients that cannot set the header.")] = None,
) -> EventSourceResponse:
    """Open a stream at `Last-Event-ID`, or at now."""
    position, lost = start(last_event_id or after, *await context.feed.bounds())
    greeting = ServerSentEvent(event="reset" if lost else "ready", id=position, data="{}", retry=RETRY_MS)
    return EventSourceResponse(follow(context.feed, position, run, greeting), ping=PING_S)


def start(after: str | None, oldest: str | None, newest: str | None) -> tuple[str, bool]:
    """Entry id to read after, and whether events between `after` and it are gone.

    Without `after` it is the newest one there is at this moment, and not Redis's `$`, which would skip whatever comes
    until the first read.
    """
    newest = newest or "0-0"
    if not after:
        return newest, False
    if not ENTRY_ID.fullmatch(after) or order(after) > order(newest):
        return newest, True
    return after, oldest is not None and order(after) < order(oldest)


async def follow(
    feed: Feed, position: str, run: str | None, greeting: ServerSentEvent
) -> AsyncIterator[ServerSentEvent]:
    """Events after `position` until the server stops or Redis goes away; the browser then comes back by itself."""
    yield greeting
    try:
        async for entry_id, fields in feed.after(position):
            if run is None or fields.get("run") == run:
                yield as_event(entry_id, fields)
    except QueueUnavailable as error:
        log.warning("an event stream ends: %s", error)


def as_event(entry_id: str, fields: dict[str, str]) -> ServerSentEvent:
    """One entry as the browser gets it."""
    found = read_event(entry_id, fields)
    body = {"type": found.kind, "id": found.sample, "run": found.run, "data": found.data}
    return ServerSentEvent(event=found.kind, id=entry_id, data=json.dumps(body))
