"""Errors as `application/problem+json` (RFC 9457): the cause, the field and the advice; never a stack trace."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from rushes.errors import (
    ArchitectureError,
    CheckpointError,
    ConfigError,
    InputError,
    JobNotFound,
    LoraError,
    ModelError,
    PromptError,
    QueueUnavailable,
    RushesError,
)

MEDIA_TYPE = "application/problem+json"

VIDEOS = "/v1/videos"
"""Where OpenAI's clients ask."""

RETRY_AFTER_S = 5
"""When to ask again after Redis was away; a restart of Redis takes about that long."""

FIELD_OF: Mapping[type[InputError], str] = {
    PromptError: "prompt",
    CheckpointError: "checkpoint",
    LoraError: "checkpoint",
    ArchitectureError: "architecture",
    ModelError: "model",
    ConfigError: "output_dir",
}
"""Which field of a request an input error is about."""

UNION_TAGS = frozenset({"line", "fields", "source", "spec"})
"""Tags of the unions in `schemas.py`; internal to pydantic, so they are left out of field names."""


class VideosError(BaseModel):
    """A problem in the shape of OpenAI's API."""

    message: str
    type: str
    param: str | None
    code: str


class Problem(BaseModel):
    """Why a request failed."""

    type: str = Field(description="Stable name of the kind of problem.", examples=["urn:rushes:prompt"])
    title: str = Field(description="The kind of problem in one line.")
    status: int = Field(description="The HTTP status, again.", examples=[422])
    detail: str = Field(description="What was wrong here, and what to do about it.")
    field: str | None = Field(default=None, description="The field of the request that is wrong, dotted.")
    error: VideosError | None = Field(default=None, description="Below `/v1/videos`: the same for OpenAI's clients.")


class ProblemResponse(JSONResponse):
    """A problem as a response of a route, the framework or the guard."""

    media_type = MEDIA_TYPE

    def __init__(self, found: Problem, headers: Mapping[str, str] | None = None) -> None:
        self.problem = found
        super().__init__(found.model_dump(exclude_none=True), found.status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; below `/v1/videos` with the field `error` that OpenAI's clients read."""
        answer: JSONResponse = self
        if scope["path"].startswith(VIDEOS):
            found = self.problem
            code = found.type.rpartition(":")[2]
            error = VideosError(message=found.detail, type=found.type, param=found.field, code=code)
            body = {**found.model_dump(exclude_none=True), "error": error.model_dump()}
            given = {name: value for name, value in self.headers.items() if name != "content-length"}
            answer = JSONResponse(body, self.status_code, given)
        await JSONResponse.__call__(answer, scope, receive, send)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    title: str | None = None,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """One problem as a response."""
    body = Problem(
        type=f"urn:rushes:{code}",
        title=title or HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        field=field,
    )
    return ProblemResponse(body, headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems a route can answer with."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {
                MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": EXAMPLES[status]},
            },
        }
        for status in statuses
    }


def add_problem_handlers(app: FastAPI) -> None:
    """Answer each family of errors with its own status."""
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.add_exception_handler(InputError, wrong_input)
    app.add_exception_handler(JobNotFound, unknown_sample)
    app.add_exception_handler(QueueUnavailable, queue_away)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, internal_error)


def invalid(field: str, message: str) -> RequestValidationError:
    """A validation error of one field."""
    return RequestValidationError([{"loc": ("body", *field.split(".")), "msg": message, "type": "value_error"}])


async def invalid_request(request: Request, error: Exception) -> JSONResponse:
    """422: the first problems of the request's body or query, the field of the first one named."""
    problems: Sequence[Any] = getattr(error, "errors", list)()
    if problems and problems[0]["type"] == "json_invalid":
        reason = problems[0].get("ctx", {}).get("error", "")
        detail = f"the body is not JSON (at character {problems[0]['loc'][-1]}): {reason}"
        return problem(422, "validation", detail, title="The request is not valid", field="body")
    sent_as = request.headers.get("content-type", "")
    if problems and tuple(problems[0]["loc"]) == ("body",) and "json" not in sent_as:
        detail = (
            f"the body is sent as {sent_as or 'nothing in particular'}: send JSON, with Content-Type: application/json"
        )
        return problem(422, "validation", detail, title="The request is not valid", field="body")
    fields = [field_name(found["loc"]) for found in problems]
    detail = "; ".join(f"{name}: {found['msg']}" for name, found in zip(fields[:3], problems, strict=False))
    return problem(422, "validation", detail, title="The request is not valid", field=fields[0] if fields else None)


def field_name(location: Sequence[Any]) -> str:
    """`("body", "prompt", "fields", "width")` as `prompt.width`."""
    return ".".join(str(part) for part in location[1:] if part not in UNION_TAGS) or str(location[0])


async def wrong_input(_: Request, error: Exception) -> JSONResponse:
    """422: the request was read, and asks for something that cannot be."""
    field = next((name for kind, name in FIELD_OF.items() if isinstance(error, kind)), None)
    detail = str(error)
    if isinstance(error, PromptError) and error.column is not None:
        detail = f"column {error.column}: {error.message}"
    return rushes_problem(422, error, detail=detail, field=field)


async def unknown_sample(_: Request, error: Exception) -> JSONResponse:
    """404: there is no record of that sample or run."""
    return rushes_problem(404, error)


async def queue_away(_: Request, error: Exception) -> JSONResponse:
    """503: Redis cannot be reached."""
    return rushes_problem(503, error, headers={"Retry-After": str(RETRY_AFTER_S)})


async def http_error(request: Request, error: Exception) -> JSONResponse:
    """Errors with a status of their own: unknown address, wrong method, body too large, bad range."""
    status: int = getattr(error, "status_code", 500)
    detail: str = getattr(error, "detail", "")
    if detail == HTTPStatus(status).phrase:
        detail = f"{request.method} {request.url.path}: {detail.lower()}; /openapi.json lists what there is"
    if status == 400 and request.method not in ("GET", "HEAD"):
        # The framework answers 400 to a body that is not text; every other fault of a body is 422.
        return problem(422, "validation", "the body is not JSON: it must be UTF-8 text", field="body")
    code = HTTPStatus(status).name.lower()
    return problem(status, code, detail, headers=getattr(error, "headers", None))


async def internal_error(_: Request, __: Exception) -> JSONResponse:
    """500: a bug. The trace goes to the server's log, not to the caller."""
    return problem(500, "internal", "the API failed on this request; its log has the reason")


def rushes_problem(
    status: int,
    error: Exception,
    *,
    detail: str | None = None,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """One of our own errors; its title is the first line of its docstring."""
    code = error.code if isinstance(error, RushesError) else "error"
    title = (inspect.getdoc(type(error)) or code).splitlines()[0].rstrip(".")
    return problem(status, code, detail or str(error), title=title, field=field, headers=headers)


def example(status: int, code: str, title: str, detail: str, field: str | None = None) -> dict[str, Any]:
    """A problem for the documentation."""
    return Problem(type=f"urn:rushes:{code}", title=title, status=status, detail=detail, field=field).model_dump(
        exclude_none=True
    )


EXAMPLES: Mapping[int, dict[str, Any]] = {
    400: example(400, "bad_request", "Bad Request", "Range 'bytes=9-3' is not of the form bytes=FIRST-LAST"),
    401: example(401, "unauthorized", "Unauthorized", "send the token as 'Authorization: Bearer <RUSHES_TOKEN>'"),
    403: example(403, "forbidden", "Forbidden", "requests from pages of other sites are refused (Origin: http://x)"),
    404: example(
        404, "job_not_found", "There is no record of that sample (unknown id, or expired)", "no sample 0f3a; list them"
    ),
    409: example(409, "conflict", "Conflict", "the sample is running: it has no picture yet"),
    413: example(413, "request_entity_too_large", "Request Entity Too Large", "the body is larger than 1048576 bytes"),
    415: example(415, "unsupported_media_type", "Unsupported Media Type", "this is not a PNG, JPEG, WebP or MP4 file"),
    416: example(416, "range_not_satisfiable", "Requested Range Not Satisfiable", "the file has 4096 bytes"),
    422: example(
        422,
        "prompt",
        "A prompt file or line cannot be read as what its author meant",
        "column 7: unknown option --wide; did you mean --w?",
        "prompt",
    ),
    429: example(429, "too_many_requests", "Too Many Requests", "more than 600 requests a minute: wait 2 s"),
    507: example(
        507, "insufficient_storage", "Insufficient Storage", "the upload cannot be kept: No space left on device"
    ),
    503: example(
        503,
        "queue_unavailable",
        "Redis cannot be reached, or refuses the command",
        "Redis at redis://127.0.0.1:6379 does not answer: connection refused",
    ),
}
"""One example per status for the OpenAPI document."""
