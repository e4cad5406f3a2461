"""Models of OpenAI's Videos API, and their conversion from and to samples."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from rushes.families.table import ARCHITECTURES
from rushes.submission.build import sampled_architecture
from rushes.wire import keys
from rushes.wire.base import FrozenModel
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobRecord, JobState
from rushes_service.api.context import Queue
from rushes_service.api.schemas import EXAMPLE_ID, MAX_STEP, SampleRequest, unicode_only
from rushes_service.catalogue.waiting import read_models

STATUS = {JobState.QUEUED: "queued", JobState.RUNNING: "in_progress", JobState.DONE: "completed"}
"""OpenAI's names of our states; all others are `failed`."""

EXAMPLE = {
    "id": EXAMPLE_ID,
    "object": "video",
    "model": "wan2.1-t2v",
    "status": "in_progress",
    "progress": 35,
    "created_at": 1767225600,
    "prompt": "a cat walking on a fence",
    "seconds": "4",
    "size": "480x272",
}


class VideoRequest(FrozenModel):
    """One clip to be made now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "wan2.1-t2v", "prompt": "a cat walking on a fence", "seconds": "4", "size": "480x272"}
            ]
        }
    )

    prompt: str = Field(min_length=1, max_length=32_000)
    model: str = Field(description="A model family, or the `label` of one of `GET /v1/models`.")
    seconds: str = Field(default="4", pattern=r"^\d{1,2}(\.\d{1,2})?$", description="Length at the family's own rate.")
    size: str | None = Field(default=None, pattern=r"^\d{2,4}x\d{2,4}$", description="Width x height in pixels.")
    input_reference: str | None = Field(
        default=None, description="Start image: a file below a root (an upload, say); in a form the picture itself."
    )
    checkpoint: str | None = Field(default=None, description="LoRA file below a root; null samples the base model.")
    strength: float | None = Field(default=None, allow_inf_nan=False, description="LoRA multiplier.")
    step: int = Field(default=0, ge=0, le=MAX_STEP, description="Training step of the checkpoint.")
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    run: str = Field(default="interactive", min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")

    @model_validator(mode="after")
    def refuse_broken_text(self) -> Self:
        """As in a request for a sample."""
        return unicode_only(self)


FORM_SCHEMA = {
    "allOf": [{"$ref": "#/components/schemas/VideoRequest"}],
    "properties": {"input_reference": {"type": "string", "format": "binary"}},
}
"""The form of a `VideoRequest`, for the OpenAPI document."""


class RemixRequest(FrozenModel):
    """Another prompt for a clip like one that there is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "the same cat, at night"}]})

    prompt: str = Field(min_length=1, max_length=32_000)

    @model_validator(mode="after")
    def refuse_broken_text(self) -> Self:
        """As in a request for a sample."""
        return unicode_only(self)


class VideoError(FrozenModel):
    """Why there is no clip."""

    code: str
    message: str


class Video(FrozenModel):
    """A sample under the names of OpenAI's API. Times are in whole seconds since 1970."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(ge=0, le=100, description="Percent of the denoising steps.")
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = Field(default=None, description="When its record goes; the file stays.")
    prompt: str | None = None
    seconds: str | None = None
    size: str | None = None
    error: VideoError | None = None

    @classmethod
    def of(cls, record: JobRecord) -> Video:
        """A record as OpenAI's API shows it."""
        job, result = record.job, record.result
        done = record.state is JobState.DONE
        ended = int(record.finished_at) if record.finished_at else None
        error = result.error if result else None
        return cls(
            id=record.id,
            model=job.model.label if job else "",
            status=STATUS.get(record.state, "failed"),  # type: ignore[arg-type]
            progress=100 if done else min(100, 100 * record.step // record.total) if record.total else 0,
            created_at=int(record.created_at),
            completed_at=ended if done else None,
            expires_at=ended + keys.RECORD_TTL_S if ended else None,
            prompt=job.prompt.prompt if job else None,
            seconds=seconds_of(record),
            size=size_of(record),
            error=VideoError(code=error.code, message=error.message) if error else None,
        )


def seconds_of(record: JobRecord) -> str | None:
    """Length of a clip in seconds; before it is made, the requested length."""
    job, result = record.job, record.result
    if result and result.frame_count and result.fps:
        return f"{result.frame_count / result.fps:.3g}"
    family = ARCHITECTURES.get(job.model.architecture) if job else None
    return f"{(job.prompt.frame_count or 1) / family.fps:.3g}" if job and family else None


def size_of(record: JobRecord) -> str | None:
    """Width x height of a clip; before it is made, the requested size."""
    found = record.result if record.result and record.result.width else record.job and record.job.prompt
    return f"{found.width}x{found.height}" if found and found.width else None


class Videos(FrozenModel):
    """A page of clips."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": [EXAMPLE], "has_more": False}]})

    object: Literal["list"] = "list"
    data: tuple[Video, ...]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool


class Deleted(FrozenModel):
    """An answer to DELETE."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": EXAMPLE_ID, "deleted": True}]})

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = Field(description="False for a clip that had ended: our samples keep their files.")


def sample_request(asked: VideoRequest, queue: Queue) -> SampleRequest:
    """A request for a clip as a request for a sample."""
    model: dict[str, Any] = {"architecture": asked.model}
    family = asked.model
    if asked.model not in ARCHITECTURES:
        known: dict[str, ModelSpec] = {spec.label: spec for spec in read_models(queue)}
        if asked.model in known:
            model, family = {"model": known[asked.model]}, known[asked.model].architecture
    spec = sampled_architecture(family)
    width, height = map(int, asked.size.split("x")) if asked.size else (None, None)
    frames = round(float(asked.seconds) * spec.fps) + 1
    prompt = Prompt(
        prompt=asked.prompt,
        width=width,
        height=height,
        frame_count=frames,
        seed=asked.seed,
        image_path=asked.input_reference,
    )
    shared = {"checkpoint": asked.checkpoint, "strength": asked.strength, "step": asked.step, "run": asked.run}
    return SampleRequest(prompt=prompt, **shared, **model)
