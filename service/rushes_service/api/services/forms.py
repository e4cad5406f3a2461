"""Requests that come as forms, for routes that read JSON: OpenAI's clients send a form wherever a file may be part."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from rushes_service.api.context import context_of
from rushes_service.api.http.problems import invalid
from rushes_service.api.http.security import FORM
from rushes_service.api.services.uploads import PICTURES, keep_upload

MAX_FIELDS = 100
"""Far more fields than any route has."""


class FormRoute(APIRoute):
    """A route whose JSON body may also be sent as a form.

    Its texts are read as the values of JSON fields, an empty one as none: clients write null so. A file is kept as an
    upload and becomes the path of that.
    """

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """The JSON handler, behind a conversion of forms."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type", "").lower().startswith(FORM):
                request = as_json(request, await fields_of(request))
            return await handler(request)

        return handle


async def fields_of(request: Request) -> dict[str, str]:
    """The fields of a form that say something.

    Raises:
        RequestValidationError: it cannot be read, or a file in it is no picture.
    """
    try:
        async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
            return {name: await text_of(name, value, request) for name, value in form.multi_items() if value != ""}
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise invalid("body", f"the form cannot be read: {error.detail}") from None


async def text_of(name: str, value: UploadFile | str, request: Request) -> str:
    """The text of a field; of a file the path it is kept under."""
    if isinstance(value, str):
        return value
    path = await keep_upload(await value.read(), context_of(request).roots.first, PICTURES)
    if path is None:
        raise invalid(name, "this is not a PNG, JPEG or WebP picture that can be read")
    return str(path)


def as_json(request: Request, fields: dict[str, str]) -> Request:
    """The same request with `fields` as its JSON body."""
    body = json.dumps(fields).encode()
    headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
    scope: dict[str, Any] = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)
