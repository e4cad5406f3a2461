"""The picture or video of a sample, by the sample's id and never by path."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from rushes.jobs import JobRecord
from rushes_service.api.context import Queue
from rushes_service.api.problems import documented

router = APIRouter(tags=["samples"])

MEDIA_TYPES = {".png": "image/png", ".mp4": "video/mp4"}

RANGE = re.compile(r"(\d*)-(\d*)")

OK = {
    200: {
        "description": "The file",
        "content": {
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "video/mp4": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    206: {"description": "The part of the file that `Range` asked for"},
    304: {"description": "The file is the one that `If-None-Match` names"},
}


@router.head("/v1/samples/{id}/media", include_in_schema=False)
@router.get(
    "/v1/samples/{id}/media",
    summary="Picture or video",
    response_class=FileResponse,
    responses={**OK, **documented(400, 401, 403, 404, 409, 416, 503)},
)
def media(id: str, request: Request, queue: Queue) -> Response:
    """The file of a sample that is done; parts of it by `Range`, nothing new by `If-None-Match`."""
    path = media_path(queue.get(id))
    found = path.stat()
    headers = {
        "ETag": etag(found),
        # A retried sample has the same address and may have another file: browsers keep it, and ask each time.
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if "range" in request.headers and "if-range" not in request.headers:
        check_range(request.headers["range"], found.st_size)
    return FileResponse(
        path,
        headers=headers,
        media_type=MEDIA_TYPES[path.suffix.lower()],
        filename=path.name,
        content_disposition_type="inline",
        stat_result=found,
    )


def media_path(record: JobRecord) -> Path:
    """The real path of a sample's file.

    Raises:
        HTTPException: there is none (yet), it is gone, or it lies outside the sample's output directory once
            symbolic links are followed.
    """
    result = record.result
    if not record.state.terminal:
        raise HTTPException(409, f"the sample is {record.state.value}: it has no picture yet")
    if result is None or result.path is None:
        reason = f": {result.error.message}" if result and result.error else ""
        raise HTTPException(404, f"the sample ended as {record.state.value} and has no picture{reason}")
    try:
        path = Path(result.path).resolve(strict=True)
    except (OSError, RuntimeError):
        raise HTTPException(404, f"{result.path} is gone: it was moved or deleted after it was made") from None
    if record.job is None or not path.is_relative_to(Path(record.job.output_dir).resolve()):
        raise HTTPException(403, f"{result.path} leads outside the output directory of its sample")
    if not stat.S_ISREG(path.stat().st_mode) or path.suffix.lower() not in MEDIA_TYPES:
        raise HTTPException(403, f"{result.path} is not a picture or video")
    return path


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
