"""Pictures and clips that prompts are conditioned on (`--i`, `--ei`, `--ci`, `--cn`), put below the first root."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field
from starlette.exceptions import HTTPException

from rushes.wire.base import FrozenModel
from rushes_service.api.context import InContext
from rushes_service.api.http.problems import documented
from rushes_service.api.services.uploads import CLIP, PICTURES, keep_upload

router = APIRouter(prefix="/v1", tags=["uploads"])

BODY = {
    kind: {"schema": {"type": "string", "format": "binary"}}
    for kind in ("image/png", "image/jpeg", "image/webp", "video/mp4")
}


class Uploaded(FrozenModel):
    """Where an upload is, for `image_path`, `control_image_path` and their like."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": ".rushes/uploads/9a7d.png", "bytes": 81920}]})

    path: str = Field(description="Relative to the server's first root.")
    bytes: int


@router.post(
    "/uploads",
    status_code=201,
    summary="Upload a picture or clip",
    openapi_extra={"requestBody": {"required": True, "content": BODY}},
    responses=documented(401, 403, 413, 415, 429, 503, 507),
)
async def upload(request: Request, context: InContext) -> Uploaded:
    """Keep a PNG, JPEG, WebP or MP4 that a prompt can then name. The same file is kept once."""
    data = await request.body()
    path = await keep_upload(data, context.roots.first, PICTURES | {CLIP})
    if path is None:
        raise HTTPException(415, "this is not a PNG, JPEG, WebP or MP4 file that can be read")
    return Uploaded(path=str(path), bytes=len(data))
