"""The wire types: requests, results and records of samples, and their JSON.

Terms. *run*: one training run. *checkpoint*: its weights at one step. *prompt*: one
parsed line of a prompt file. *sample*: one checkpoint x one prompt x strength x seed, that
is one media file and one job. *submission*: the samples of one checkpoint.

Every type is frozen, rejects unknown fields, and encodes itself. Nothing here is ever pickled.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import PureWindowsPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticSerializationError

from rushes.errors import InputError, WireError

WIRE_VERSION = 1
"""Raised when a change makes older workers misread a job."""

Dtype = Literal["float32", "bfloat16", "float16"]
Priority = Literal["interactive", "training"]
Keep = Literal["all", "latest"]
Expert = Literal["low", "high"]
Experts = Literal["low", "high", "both"]

LABEL = r"^[A-Za-z0-9.-]{1,32}$"
"""What a label may be: part of a file name, between underscores."""

BASE_MODEL = "base"
"""Checkpoint fingerprint of the base model without a LoRA."""


class FrozenModel(BaseModel):
    """Base of the wire types: immutable, strict about field names, hashable by content."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


class ModelSpec(FrozenModel):
    """The base model of a run: exactly what was asked for, in the trainers' own words.

    Either `model` (a diffusers directory or hub id), or single files, or both: a file given
    by its own flag replaces that part of `model`.
    """

    architecture: str
    model: str | None = None
    dit: str | None = None
    vae: str | None = None
    text_encoder: str | None = None
    """The text encoder of a family that has one; `text_encoder1` and `text_encoder2` are those of a family of two."""

    text_encoder1: str | None = None
    text_encoder2: str | None = None
    byt5: str | None = None
    """HunyuanVideo 1.5's encoder of the words that are to be seen in the picture."""

    t5: str | None = None
    clip: str | None = None
    image_encoder: str | None = None
    dit_high_noise: str | None = None
    """Wan2.2's transformer for much noise; `dit` is the one for little."""

    tokenizer1: str | None = None
    tokenizer2: str | None = None
    """Directories of the tokenizers of the first and the second text encoder; T5 of Wan counts as the first."""

    dtype: Dtype | None = None
    fp8_base: bool = False
    """Keep the transformer's weights in float8; it computes in `dtype`."""
    fp8_scaled: bool = False
    """The same with scales, and only for the linear layers of its blocks."""

    fp8_llm: bool = False
    fp8_vl: bool = False
    fp8_t5: bool = False
    fp8_text_encoder: bool = False
    f1: bool = False
    """FramePack's F1 variant, which makes a clip forwards from its start."""

    latent_window_size: int = Field(default=9, ge=1, le=256)
    """Latent frames in a section of FramePack; 9 as published."""

    model_version: str | None = None
    """Which of a family's published models it is, where files do not tell: `edit-2511`; None is the first of them."""

    experts: Experts = "low"
    """Which of Wan2.2's transformers make the clip; the trainers sample with the one for little noise alone."""

    lora_expert: Expert | None = None
    """Which of them a LoRA was trained on, if both sample and it was not trained on both."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the lane of this model: equal requests share a warm pipeline."""
        return model_fingerprint(self)  # pyright: ignore[reportArgumentType] - frozen models hash by content

    def encode(self) -> str:
        """This request as JSON text."""
        return model_json(self)  # pyright: ignore[reportArgumentType] - likewise

    @property
    def label(self) -> str:
        """A short name for people: the family and the last part of the model's path."""
        source = self.model or self.dit
        if not source:
            return self.architecture
        # Takes slashes of either kind.
        return f"{self.architecture} ({PureWindowsPath(source).name})"


@functools.lru_cache(maxsize=64)
def model_fingerprint(model: ModelSpec) -> str:
    """See `ModelSpec.fingerprint`. Kept, because it is asked for at every step of a sample's way."""
    return digest(model.model_dump(mode="json", exclude_defaults=True))


@functools.lru_cache(maxsize=64)
def model_json(model: ModelSpec) -> str:
    """See `ModelSpec.encode`; kept for the same reason."""
    return model.model_dump_json(exclude_defaults=True)


NoiseSource = Literal["device", "cpu"]
"""Whose random numbers a sample starts from: the sampling device's, as the trainers draw them, or the CPU's. A GPU's
differ between kinds of GPU, the CPU's are the same everywhere."""


class VaeOptions(FrozenModel):
    """How latents are decoded; the trainers' own `--vae_*` flags."""

    chunk_size: int | None = Field(default=None, ge=1)
    spatial_tile_sample_min_size: int | None = Field(default=None, ge=16)
    tiling: bool = False
    bulk_decode: bool = False
    """The clip at once: FramePack's instead of section by section, HunyuanVideo 1.5's instead of in tiles."""


class Prompt(FrozenModel):
    """One prompt with its options, as asked for: None means "the family's default".

    Field names are those of musubi-tuner's prompt dictionaries, so `.toml` and `.json` prompt
    files carry over. Sizes are pixels, `cfg_scale` is classifier-free guidance, `guidance_scale` is
    the embedded (distilled) guidance.
    """

    prompt: str
    width: int | None = Field(default=None, ge=1, le=16384)
    height: int | None = Field(default=None, ge=1, le=16384)
    frame_count: int | None = Field(default=None, ge=1, le=16384)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    sample_steps: int | None = Field(default=None, ge=1, le=1000)
    guidance_scale: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    discrete_flow_shift: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    dynamic_shift: bool = False
    """No fixed shift: the schedule grows with the picture. Prompt files say so with `"discrete_flow_shift": null`."""

    cfg_scale: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    negative_prompt: str | None = None
    image_path: str | None = None
    end_image_path: str | None = None
    control_video_path: str | None = None
    control_image_path: tuple[str, ...] = ()
    one_frame: str | None = None
    lora_multiplier: float | None = Field(default=None, allow_inf_nan=False)
    drift_limit: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Makes the prompt a control, which is to stay as the base model makes it: the largest `Drift.latents` allowed."""


class Checkpoint(FrozenModel):
    """LoRA weights of one training step, as files that a worker can open.

    `fingerprint` is the SHA-256 of the content. `source` is where the trainer wrote the file, tried when
    `path` is gone. With `snapshot`, `path` is a link that Rushes made and removes when its last sample has ended.
    `expert` is the transformer that the file is for, where a model has two and the file's name says so.
    """

    path: str
    fingerprint: str
    source: str | None = None
    snapshot: bool = False
    expert: Expert | None = None


class ExtraLora(FrozenModel):
    """A LoRA that is merged beside the checkpoint, with a strength of its own: a style, a distilled speed-up.

    The file stays where it is; `fingerprint` is the SHA-256 of its content, `expert` as for `Checkpoint`.
    """

    path: str
    fingerprint: str
    strength: float = Field(default=1.0, allow_inf_nan=False)
    expert: Expert | None = None


class SampleJob(FrozenModel):
    """Everything a worker needs to make one sample.

    `loras` are merged at their own strengths whatever the checkpoint's is, also for samples of the base model. With
    `allow_partial_lora` keys that fit nothing are a warning, not an error; with `allow_other_family` so is a file that
    is for another model family.
    """

    version: Literal[1] = WIRE_VERSION
    id: str
    run: str
    submission: str
    model: ModelSpec
    vae: VaeOptions = VaeOptions()
    checkpoint: Checkpoint | None = None
    loras: tuple[ExtraLora, ...] = ()
    allow_partial_lora: bool = False
    allow_other_family: bool = False
    noise: NoiseSource = "device"
    prompt: Prompt
    prompt_index: int = Field(default=0, ge=0)
    step: int = Field(default=0, ge=0)
    epoch: int | None = Field(default=None, ge=0)
    output_dir: str
    output_name: str | None = None
    priority: Priority = "training"
    keep: Keep = "all"
    label: str | None = Field(default=None, pattern=LABEL)
    """Tells weights of one step apart, `ema` say: in the file's name, and over the column of the gallery. The id does
    not depend on it: the same weights are sampled once."""

    submitted_at: float = 0.0
    """Seconds since 1970 by the submitter's clock."""
    staging: str | None = None
    """URL below which the files of this sample are put for workers elsewhere (see staging.py); None for none."""
    local_time: str | None = Field(default=None, pattern=r"^\d{14}$")
    """The same as `YYYYmmddHHMMSS` in the submitter's time zone, which workers need not share; names the file, so
    that a retry on any machine writes the same one. None in jobs of earlier versions."""

    @property
    def strength(self) -> float:
        """Multiplier of this sample's checkpoint; 0 is the base model (and the extra LoRAs, if there are any)."""
        return 1.0 if self.prompt.lora_multiplier is None else self.prompt.lora_multiplier

    def encode(self) -> str:
        """This job as JSON text. The version is always in it: another version's default is another number.

        Raises:
            InputError: a text in it is not Unicode.
        """
        try:
            fields = self.model_dump_json(exclude_defaults=True)
        except PydanticSerializationError as error:
            raise InputError(f"sample {self.id} holds a text that is not Unicode ({error}); rename that file") from None
        return f'{{"version":{self.version},{fields[1:]}'

    @classmethod
    def decode(cls, raw: str) -> SampleJob:
        """Read a job back.

        Raises:
            WireError: the text is not a job this version understands; `raw` is kept on the error.
        """
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            raise WireError(f"not a sample job this version can read: {summary(error)}", raw) from error


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


def job_id(
    *,
    run: str,
    model: ModelSpec,
    checkpoint_fingerprint: str,
    prompt: Prompt,
    prompt_index: int,
    step: int,
    loras: Sequence[ExtraLora] = (),
    allow_partial_lora: bool = False,
    allow_other_family: bool = False,
    expert: Expert | None = None,
    vae: VaeOptions | None = None,
    output: tuple[str, str | None] | None = None,
    noise: NoiseSource = "device",
) -> str:
    """The id of a sample: the same request has the same id wherever and whenever it is made.

    `prompt` is taken as asked for, before a random seed is drawn, so that submitting the same file
    twice makes one sample. Extra LoRAs count by content and strength, wherever they lie. 32 hex digits.

    Args:
        expert: see `Checkpoint.expert`.
        output: output directory and output name, unless `run` is made from them.
    """
    asked: list[Any] = [run, model.fingerprint, checkpoint_fingerprint, step, prompt_index]
    # A limit changes no picture: setting one makes no sample again.
    asked.append(prompt.model_dump(mode="json", exclude_defaults=True, exclude={"drift_limit"}))
    # Appended only where used: ids of samples without them are those of earlier versions.
    if loras:
        asked.append(["loras", *([lora.fingerprint, lora.strength] for lora in loras)])
    if allow_partial_lora:
        asked.append("allow_partial_lora")
    if allow_other_family:
        asked.append("allow_other_family")
    if expert is not None:
        asked.append(["expert", expert])
    if vae is not None and vae != VaeOptions():
        asked.append(["vae", vae.model_dump(mode="json", exclude_defaults=True)])
    if output is not None:
        asked.append(["output", *output])
    if noise != "device":
        asked.append(["noise", noise])
    return digest(asked, digits=32)


def unicode_text(text: str) -> str:
    r"""`text` with `\udcff` and the like, as Python makes of file names that are not Unicode, written out."""
    return text.encode(errors="backslashreplace").decode()


def digest(value: Any, digits: int = 16) -> str:
    """Hex digest of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def summary(error: ValidationError) -> str:
    """The first problems of a pydantic error on one line: `field: reason; field: reason`."""
    problems = error.errors(include_url=False, include_input=False)
    shown = [f"{'.'.join(str(part) for part in p['loc']) or 'value'}: {p['msg']}" for p in problems[:3]]
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(shown) + more
