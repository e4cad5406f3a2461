"""What is asked for: one sample, with its prompt, checkpoint and options, and its JSON.

Terms. *run*: one training run. *checkpoint*: its weights at one step. *prompt*: one
parsed line of a prompt file. *sample*: one checkpoint x one prompt x strength x seed, that
is one media file and one job. *submission*: the samples of one checkpoint.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError
from pydantic_core import PydanticSerializationError

from rushes.errors import InputError, WireError
from rushes.wire.base import FrozenModel, summary
from rushes.wire.models import Expert, ModelSpec

WIRE_VERSION = 1
"""Raised when a change makes older workers misread a job."""

Priority = Literal["interactive", "training"]
Keep = Literal["all", "latest"]

LABEL = r"^[A-Za-z0-9.-]{1,32}$"
"""What a label may be: part of a file name, between underscores."""

BASE_MODEL = "base"
"""Checkpoint fingerprint of the base model without a LoRA."""

DRAFT_THRESHOLD = 0.08
"""Of a draft that names none: what ParaAttention, which FirstBlockCache is from, advises for FLUX.1. diffusers' own
default is 0.05."""

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

    @property
    def identity(self) -> list[str | float]:
        """What it does to a sample; as in versions before there were experts where it is for all."""
        return [self.fingerprint, self.strength, *([self.expert] if self.expert else [])]


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
    draft: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Makes it a draft: a step computes only its first block where that changed by less than this share since the last
    whole step (FirstBlockCache). Approximate. None is exact, and older workers refuse what is not."""

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
