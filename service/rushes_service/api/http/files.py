"""Answers that are files: parts of them, nothing new, and how long a browser may keep them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

RANGE = re.compile(r"(\d{0,18})-(\d{0,18})")
"""Digits for any file there is; Python refuses to read numbers of thousands of them."""

SANDBOX = "default-src 'none'; sandbox"
"""Content policy of every file: nothing in it may run, should a browser open it as a page."""

YEAR_S = 365 * 24 * 3600


def file_response(path: Path, media_type: str, request: Request) -> Response:
    """The file, the part of it that `Range` asks for, or nothing new for `If-None-Match`.

    An address with `v` names one version of a file, which a browser may keep for good. Without it a retried sample
    has the same address and may have another file: browsers keep it, and ask each time.
    """
    found = path.stat()
    versioned = "v" in request.query_params
    headers = {
        "ETag": etag(found),
        "Cache-Control": f"private, max-age={YEAR_S}, immutable" if versioned else "private, no-cache",
        "Content-Security-Policy": SANDBOX,
    }
    if matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if "range" in request.headers and request.headers.get("if-range", headers["ETag"]) == headers["ETag"]:
        check_range(request.headers["range"], found.st_size)
    return FileResponse(
        path,
        headers=headers,
        media_type=media_type,
        filename=path.name,
        content_disposition_type="inline",
        stat_result=found,
    )


def file_responses(*media_types: str) -> Mapping[int | str, dict[str, object]]:
    """OpenAPI entries of a route that answers with a file."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        200: {"description": "The file", "content": dict.fromkeys(media_types, binary)},
        206: {
            "description": "The part of the file that `Range` asked for",
            "content": dict.fromkeys((*media_types, "multipart/byteranges"), binary),
        },
        304: {"description": "The file is the one that `If-None-Match` names"},
    }


def etag(found: os.stat_result) -> str:
    """Names one version of a file: files are renamed into place, so a new one has a new inode."""
    return f'"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"'


def matches(header: str | None, tag: str) -> bool:
    """True when `If-None-Match` lists `tag` (weak comparison, as RFC 9110 asks for)."""
    if header is None:
        return False
    return header.strip() == "*" or tag in (part.strip().removeprefix("W/") for part in header.split(","))


def check_range(header: str, size: int) -> None:
    """Refuse a `Range` that the file response could only answer in plain text.

    Raises:
        HTTPException: 400 for a header that is not a byte range, 416 for one beyond the file.
    """
    unit, _, ranges = header.partition("=")
    found = [RANGE.fullmatch(part.strip()) for part in ranges.split(",")]
    for part in found:
        first, last = part.groups() if part else ("", "")
        backwards = first and last and int(first) > int(last)
        if unit.strip().lower() != "bytes" or not (first or last) or backwards:
            raise HTTPException(400, f"Range {header!r} is not of the form bytes=FIRST-LAST")
        if (int(first) >= size) if first else (int(last) == 0 or size == 0):
            raise HTTPException(416, f"the file has {size} bytes", headers={"Content-Range": f"bytes */{size}"})
