"""The picture or video of a sample, its still and its receipt: by the sample's id and never by path."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import BeforeValidator, ConfigDict, Field
from starlette.exceptions import HTTPException

from rushes.checkpoints.adapters import adapter_files, checkpoint_header
from rushes.checkpoints.safetensors import METADATA
from rushes.checkpoints.store import is_url
from rushes.errors import CheckpointError, OutputError, StagingError
from rushes.wire.base import FrozenModel
from rushes.wire.results import JobRecord
from rushes_service.api.context import Context, InContext
from rushes_service.api.http.files import file_response, file_responses
from rushes_service.api.http.problems import documented
from rushes_service.catalogue.checkpoints import existing
from rushes_service.media.naming import MEDIA_TYPES
from rushes_service.storage.staged import StagedFiles

router = APIRouter(prefix="/v1/samples", tags=["samples"])

MAX_RECEIPT_BYTES = 8 << 20
"""A receipt has some kilobytes."""

LONGEST_METADATA = 2000
"""Characters of one entry of a LoRA's metadata; trainers also keep lists of every picture there."""

Width = Annotated[Literal[160, 320, 640], BeforeValidator(int)]
"""Pixels. A query holds text, which a Literal of numbers does not take by itself."""


class Lora(FrozenModel):
    """The header of a LoRA file; its tensors are not read."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "file": "cat-000100.safetensors",
                    "bytes": 23068672,
                    "tensors": 600,
                    "parameters": 11468800,
                    "dtypes": ["BF16"],
                    "ranks": [16],
                    "metadata": {"ss_network_alpha": "8", "ss_learning_rate": "0.0002"},
                }
            ]
        }
    )

    file: str
    bytes: int
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    ranks: tuple[int, ...] = Field(description="Ranks of its down matrices.")
    metadata: dict[str, str] = Field(description="What the trainer wrote into it; long entries are left out.")


@router.head("/{id}/media", include_in_schema=False)
@router.get(
    "/{id}/media",
    summary="Picture or video",
    response_class=FileResponse,
    responses={**file_responses("image/png", "video/mp4"), **documented(400, 401, 403, 404, 409, 416, 503)},
)
def media(id: str, request: Request, context: InContext) -> Response:
    """The file of a sample that is done; parts of it by `Range`, nothing new by `If-None-Match`."""
    path = media_path(context.client.get(id), context)
    return file_response(path, MEDIA_TYPES[path.suffix.lower()], request)


@router.head("/{id}/thumbnail", include_in_schema=False)
@router.get(
    "/{id}/thumbnail",
    summary="Still",
    response_class=FileResponse,
    responses={**file_responses("image/webp"), **documented(400, 401, 403, 404, 409, 416, 422, 503)},
)
def thumbnail(
    id: str,
    request: Request,
    context: InContext,
    width: Annotated[Width, Query(description="Pixels; nothing is enlarged.")] = 320,
) -> Response:
    """A small WebP: the picture itself, or the middle frame of a clip. Made at the first request, then kept."""
    record = context.client.get(id)
    path = media_path(record, context)
    result = record.result
    length_s = (result.frame_count or 1) / (result.fps or 1) if result else 0.0
    try:
        still = context.thumbnails.of(path, width, length_s / 2)
    except OutputError as error:
        raise HTTPException(404, str(error)) from error
    return file_response(still, "image/webp", request)


@router.get("/{id}/receipt", summary="What was done to make it", responses=documented(401, 403, 404, 409, 503))
def receipt(id: str, context: InContext) -> dict[str, Any]:
    """The receipt beside the file: every parameter, the LoRA's fingerprint, versions, seconds per stage."""
    record = context.client.get(id)
    if record.result is None or record.result.receipt is None:
        media_path(record, context)
        raise HTTPException(404, "this sample has no receipt")
    path = below_output(record, record.result.receipt, context)
    if path.suffix != ".json" or path.stat().st_size > MAX_RECEIPT_BYTES:
        raise HTTPException(403, f"{path.name} is not a receipt")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair, which JSON may hold, cannot be sent
    except (OSError, ValueError, RecursionError) as error:
        raise HTTPException(404, f"{path.name} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise HTTPException(404, f"{path.name} is not a receipt")
    return found


@router.get("/{id}/lora", summary="The LoRA's numbers", responses=documented(401, 404, 503))
def lora(id: str, context: InContext) -> Lora:
    """Size, rank and metadata of the checkpoint, from the file's header, while the file is there."""
    record = context.client.get(id)
    if record.job is None or record.job.checkpoint is None:
        raise HTTPException(404, "this sample shows the base model: it has no LoRA")
    local = context.paths.job_to_local(record.job).checkpoint
    path = local and existing(local.model_dump())
    if path is None:
        raise HTTPException(404, "the checkpoint is gone: it was moved or deleted after it was sampled")
    try:
        return numbers_of(Path(path))
    except CheckpointError as error:
        raise HTTPException(404, str(error)) from error


def numbers_of(path: Path) -> Lora:
    """The header of a LoRA file.

    Raises:
        CheckpointError: it is no complete safetensors file.
    """
    header = checkpoint_header(path)
    metadata = header.pop(METADATA, None) or {}
    shapes = {name: entry["shape"] for name, entry in header.items()}
    down = [shape[0] for name, shape in shapes.items() if shape and ("lora_down" in name or "lora_A" in name)]
    return Lora(
        file=path.name,
        bytes=adapter_files(path).weights.stat().st_size,
        tensors=len(shapes),
        parameters=sum(product(shape) for shape in shapes.values()),
        dtypes=tuple(sorted({str(entry.get("dtype")) for entry in header.values()})),
        ranks=tuple(sorted(set(down))),
        metadata={str(key): str(value) for key, value in metadata.items() if len(str(value)) <= LONGEST_METADATA},
    )


def product(shape: list[int]) -> int:
    """Numbers in a tensor of this shape."""
    total = 1
    for size in shape:
        total *= size
    return total


def media_path(record: JobRecord, context: Context) -> Path:
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
    path = below_output(record, result.path, context)
    if path.suffix.lower() not in MEDIA_TYPES:
        raise HTTPException(403, f"{result.path} is not a picture or video")
    return path


def below_output(record: JobRecord, text: str, context: Context) -> Path:
    """The real path of a file of a sample; a copy, if it is in a store.

    Raises:
        HTTPException: it is gone, leads outside the sample's output directory, or is no plain file.
    """
    if is_url(text):
        return from_store(record, text, context.staged)
    try:
        path = Path(context.paths.to_local(text)).resolve(strict=True)
    except (OSError, RuntimeError):
        raise HTTPException(404, f"{text} is gone: it was moved or deleted after it was made") from None
    output = record.job and Path(context.paths.to_local(record.job.output_dir)).resolve()
    if output is None or not path.is_relative_to(output):
        raise HTTPException(403, f"{text} leads outside the output directory of its sample")
    if not stat.S_ISREG(path.stat().st_mode):
        raise HTTPException(403, f"{text} is not a picture or video")
    return path


def from_store(record: JobRecord, url: str, staged: StagedFiles) -> Path:
    """A copy of a sample's file that lies in a store.

    Raises:
        HTTPException: the sample was not staged there, or the store cannot be reached.
    """
    job = record.job
    if job is None or job.staging is None or not url.startswith(f"{job.output_dir}/"):
        raise HTTPException(403, f"{url} leads outside the output directory of its sample")
    try:
        # A sample that is made again has the same URL and another file.
        return staged.fetch(job.staging, url, str(record.finished_at))
    except StagingError as error:
        raise HTTPException(404, str(error)) from error
