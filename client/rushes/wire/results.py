"""How a sample stands and how it ended: states, results and records."""

from __future__ import annotations

import enum
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from rushes.errors import WireError
from rushes.wire.base import FrozenModel, summary, unicode_text
from rushes.wire.jobs import Prompt, SampleJob


class JobState(str, enum.Enum):
    """Where a sample is in its life.

    queued -> running -> done | failed | cancelled | dead, with queued -> cancelled | superseded
    and running -> queued (retry, hand-back, lost worker) on the way.
    """

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    DEAD = "dead"

    @property
    def terminal(self) -> bool:
        """True when nothing more will happen unless a user retries the sample."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class JobError(FrozenModel):
    """Why a sample ended without a picture."""

    code: str
    message: str
    retryable: bool = False

    @field_validator("message")
    @classmethod
    def _readable(cls, message: str) -> str:
        return unicode_text(message)


class Drift(FrozenModel):
    """How far a sample is from the base model's sample of the same prompt and seed.

    `latents` is the RMS of their difference, in standard deviations of the base's; `pixels` the mean absolute
    difference of some frames in 8-bit levels. None where it could not be measured.
    """

    latents: float | None = None
    pixels: float | None = None


class SampleResult(FrozenModel):
    """How one sample ended. `path` is the media file, `receipt` the JSON beside it."""

    id: str
    run: str
    submission: str
    state: JobState
    step: int
    epoch: int | None = None
    prompt: Prompt
    prompt_index: int = 0
    path: str | None = None
    receipt: str | None = None
    media_type: Literal["image/png", "video/mp4"] | None = None
    width: int | None = None
    height: int | None = None
    frame_count: int | None = None
    fps: float | None = None
    seed: int | None = None
    warnings: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    """What looks wrong: `black`, `constant`, `saturated`, `still`; `drifted` for a control beyond its limit."""
    drift: Drift | None = None
    """None for the base model, and where there is no sample of it to compare with."""
    scores: dict[str, float] = Field(default_factory=dict[str, float])
    """Numbers by name, of the worker's scores (`rushes worker --score`)."""
    error: JobError | None = None
    worker: str | None = None
    seconds: float | None = None
    """Time the worker spent on it."""
    noise: str | None = None
    """What drew its noise: `cpu`, or the name of the GPU ("NVIDIA H200"): a seed means other numbers on each kind. None
    where it is not known."""
    draft: float | None = None
    """The threshold of a draft, which is approximate; None is an exact sample."""

    @classmethod
    def of(cls, job: SampleJob, state: JobState, **fields: Any) -> SampleResult:
        """A result with the fields that it shares with `job`."""
        return cls(
            id=job.id,
            run=job.run,
            submission=job.submission,
            state=state,
            step=job.step,
            epoch=job.epoch,
            prompt=job.prompt,
            prompt_index=job.prompt_index,
            seed=fields.pop("seed", job.prompt.seed),
            draft=job.draft,
            **fields,
        )

    def encode(self) -> str:
        """This result as JSON text."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def decode(cls, raw: str) -> SampleResult:
        """Read a result back.

        Raises:
            WireError: the text is not a result this version understands.
        """
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            raise WireError(f"not a sample result this version can read: {summary(error)}", raw) from error


class JobRecord(FrozenModel):
    """What Redis knows about one sample.

    `job` is None when the payload cannot be decoded (`raw` keeps it): such a sample ends as dead.
    """

    id: str
    run: str
    job: SampleJob | None
    raw: str | None = None
    state: JobState
    attempt: int = 0
    worker: str | None = None
    stage: str | None = None
    step: int = 0
    """Denoising steps done, of `total`."""
    total: int = 0
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    cancelling: bool = False
    result: SampleResult | None = None
