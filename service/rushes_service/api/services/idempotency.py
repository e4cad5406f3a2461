"""Requests that may be sent twice: under one `Idempotency-Key` they are carried out once, and answered alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Header, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from rushes.wire import keys
from rushes.wire.connection import reachable
from rushes_service.api.context import Context
from rushes_service.api.http.problems import invalid

T = TypeVar("T", bound=BaseModel)

UNFINISHED_S = 120
"""How long a request that never ended (its server died) holds its key."""

PENDING = "pending"

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="A text of your own. The same request under the same key within a day is carried out once.",
    ),
]


def once(
    context: Context,
    request: Request,
    key: str | None,
    asked: BaseModel,
    make: Callable[[], T],
    *,
    location: Callable[[T], str] | None = None,
) -> Response:
    """The result of `make` as a 202; for a key that was used before, the answer given then.

    Raises:
        RequestValidationError: the key was used for another request.
        HTTPException: the first request with this key has not ended (409).
        RushesError: whatever `make` raises; the key can then be used again.
    """
    if key is None:
        return accepted(make(), location)
    name = keys.answer(hashlib.sha256(f"{request.url.path}\0{key}".encode()).hexdigest())
    # A field that is null and one that is left out may ask for different things: a new seed, or the same.
    request_digest = hashlib.sha256(asked.model_dump_json(exclude_unset=True).encode()).hexdigest()
    redis = context.client.redis
    with reachable(context.client.url):
        ours = redis.set(name, json.dumps([request_digest, PENDING]), nx=True, ex=UNFINISHED_S)
        before: Any = None if ours else redis.get(name)
    if before is not None:
        return repeated(json.loads(before), request_digest)
    try:
        answer = accepted(make(), location)
    except BaseException:
        with reachable(context.client.url):
            redis.delete(name)
        raise
    kept = [request_digest, bytes(answer.body).decode(), answer.headers.get("location")]
    with reachable(context.client.url):
        redis.set(name, json.dumps(kept), ex=keys.ANSWER_TTL_S)
    return answer


def accepted(value: T, location: Callable[[T], str] | None) -> Response:
    """A 202 that holds `value`."""
    headers = {"Location": location(value)} if location else None
    return Response(value.model_dump_json(), 202, headers=headers, media_type="application/json")


def repeated(kept: list[Any], asked: str) -> Response:
    """The answer that was given before."""
    if kept[0] != asked:
        raise invalid("idempotency-key", "this key was used for another request: use a new one")
    if kept[1] == PENDING:
        raise HTTPException(409, "the first request with this key has not been answered yet", {"Retry-After": "1"})
    headers = {"Idempotent-Replayed": "true"}
    if kept[2]:
        headers["Location"] = kept[2]
    return Response(kept[1], 202, headers=headers, media_type="application/json")
