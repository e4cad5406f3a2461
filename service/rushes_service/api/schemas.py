"""Request and response models, with the examples of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticSerializationError
from typing_extensions import Self

from rushes.submission.sweeps import MAX_VALUES
from rushes.wire.base import FrozenModel
from rushes.wire.jobs import DRAFT_THRESHOLD, NoiseSource, Prompt, VaeOptions
from rushes.wire.models import Expert, ModelSpec
from rushes.wire.results import JobRecord

M = TypeVar("M", bound=BaseModel)

MAX_STEP = 10**9
"""Far beyond any training run; the file's name has room for it."""

EXAMPLE_ID = "5b8c1f0e9a7d4c3f8e2a6b1d0c9f7e4a"

EXAMPLE_LINE = {
    "architecture": "wan2.1-t2v",
    "model": "models/wan2.1-1.3b",
    "checkpoint": "output/cat-000100.safetensors",
    "prompt": "a cat walking on a fence --w 480 --h 272 --f 17 --d 42",
    "run": "cat",
    "step": 100,
}

EXAMPLE_FIELDS = {
    "model": {"architecture": "wan2.1-t2v", "dit": "models/wan_t2v_1.3B.safetensors", "vae": "models/wan_vae.pth"},
    "checkpoint": None,
    "prompt": {"prompt": "a cat walking on a fence", "width": 480, "height": 272, "frame_count": 17},
}

EXAMPLE_GRID_REQUEST = {
    "run": "cat",
    "checkpoints": "all",
    "prompts": ["a cat in the snow --w 480 --h 272 --f 17"],
    "strengths": [0.5, 1.0],
    "seeds": [42],
}

EXAMPLE_SAMPLE: dict[str, Any] = {
    "id": EXAMPLE_ID,
    "run": "cat",
    "media": f"/v1/samples/{EXAMPLE_ID}/media",
    "thumbnail": f"/v1/samples/{EXAMPLE_ID}/thumbnail",
    "job": {
        "id": EXAMPLE_ID,
        "run": "cat",
        "submission": "c1f0e9a7d4c3f8e2",
        "model": {"architecture": "wan2.1-t2v", "model": "/data/models/wan2.1-1.3b"},
        "checkpoint": {"path": "/data/output/cat-000100.safetensors", "fingerprint": "9a7d4c3f8e2a6b1d"},
        "prompt": {"prompt": "a cat walking on a fence", "width": 480, "height": 272, "frame_count": 17, "seed": 42},
        "step": 100,
        "output_dir": "/data/output",
        "priority": "interactive",
        "submitted_at": 1767225600.0,
    },
    "state": "done",
    "attempt": 1,
    "worker": "box-cuda0",
    "stage": "done",
    "step": 20,
    "total": 20,
    "created_at": 1767225600.0,
    "started_at": 1767225601.0,
    "finished_at": 1767225640.0,
    "result": {
        "id": EXAMPLE_ID,
        "run": "cat",
        "submission": "c1f0e9a7d4c3f8e2",
        "state": "done",
        "step": 100,
        "prompt": {"prompt": "a cat walking on a fence", "width": 480, "height": 272, "frame_count": 17, "seed": 42},
        "path": "/data/output/sample/cat_000100_00_20260101000000_42.mp4",
        "receipt": "/data/output/sample/cat_000100_00_20260101000000_42.json",
        "media_type": "video/mp4",
        "width": 480,
        "height": 272,
        "frame_count": 17,
        "fps": 16.0,
        "seed": 42,
        "worker": "box-cuda0",
        "seconds": 39.0,
    },
}


def text_or(tag: str, text_tag: str) -> Discriminator:
    """Chooses between text and object, so that an error names the fields of the right one."""
    return Discriminator(lambda value: text_tag if isinstance(value, str) else tag)


PromptOrLine = Annotated[
    Annotated[str, Tag("line")] | Annotated[Prompt, Tag("fields")],
    text_or("fields", "line"),
]
ModelOrSource = Annotated[
    Annotated[str, Tag("source")] | Annotated[ModelSpec, Tag("spec")],
    text_or("spec", "source"),
]


class LoraRequest(FrozenModel):
    """A LoRA to merge beside the checkpoint, with a strength of its own."""

    path: str
    strength: float = Field(default=1.0, allow_inf_nan=False)
    expert: Expert | None = Field(
        default=None, description="Transformer it is for, of Wan2.2's two; left out: what its name says, else both."
    )


RunName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Name of a run."""


Draft = Annotated[
    float,
    Field(ge=0, allow_inf_nan=False),
    WrapValidator(lambda value, threshold: value if isinstance(value, bool) else threshold(value)),
    PlainSerializer(lambda value: value),  # true stays true: one key of idempotency is for one request
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "boolean"}]}),
]
"""A draft's threshold, or whether it is one."""


class RunFields(FrozenModel):
    """Fields that all samples of a run share.

    Paths may be relative to one of the server's roots and must lie under one of them.
    """

    run: RunName = Field(default="interactive", description="Run it is listed under.")
    architecture: str | None = Field(default=None, description="Model family; left out when `model` is an object.")
    model: ModelOrSource | None = Field(
        default=None,
        description="Base model: a diffusers directory, a hub id, or a whole model object. Left out: the family's own.",
    )
    vae: VaeOptions = Field(default=VaeOptions(), description="How latents are decoded.")
    loras: tuple[LoraRequest, ...] = Field(
        default=(), max_length=16, description="Other LoRAs, merged beside the checkpoint (and into the base model)."
    )
    allow_other_family: bool = Field(
        default=False, description="A LoRA that is for another model family is a warning, not an error."
    )
    allow_partial_lora: bool = Field(
        default=False, description="Keys of a LoRA that fit nothing in the model are a warning, not an error."
    )
    noise: NoiseSource = Field(
        default="device",
        description="Whose random numbers the sample starts from: the GPU's, which differ between kinds of GPU, or "
        "the CPU's, which are the same everywhere.",
    )
    draft: Draft | None = Field(
        default=None,
        description="Makes a draft: faster, approximate, and not to judge a LoRA by. True, or the change of a step's "
        f"first block below which its other blocks are skipped ({DRAFT_THRESHOLD} is usual).",
    )
    output_name: str | None = Field(
        default=None,
        max_length=100,
        pattern=r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]*$",
        description="First part of the file's name.",
    )
    output_dir: str | None = Field(
        default=None, description="The file goes into its folder `sample`; left out: the first root."
    )

    @model_validator(mode="after")
    def refuse_broken_text(self) -> Self:
        """JSON can hold half a surrogate pair (`"\\ud800"`), which no file name and no record can."""
        return unicode_only(self)


class SampleRequest(RunFields):
    """One sample to be made now, before anything a training run has queued.

    Paths may be relative to one of the server's roots and must lie under one of them.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_LINE, EXAMPLE_FIELDS]})

    checkpoint: str | None = Field(default=None, description="LoRA file; null or `base` samples the base model.")
    prompt: PromptOrLine = Field(
        description="A prompt line with its options, or its fields. Without a seed one is drawn, so that asking again "
        "makes another picture."
    )
    strength: float | None = Field(
        default=None, allow_inf_nan=False, description="LoRA multiplier; wins over the prompt's own `--m`."
    )
    step: int = Field(default=0, ge=0, le=MAX_STEP, description="Training step of the checkpoint; names the file.")
    epoch: int | None = Field(default=None, ge=0, le=MAX_STEP, description="Epoch of the checkpoint; names the file.")


class PromptChanges(Prompt):
    """Changes of a prompt. A field that is left out stays; null is the family's default, for the seed
    another one."""

    prompt: str | None = None  # type: ignore[assignment]


class ResampleRequest(FrozenModel):
    """Changes for a sample that is made again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": {"seed": 7}, "strength": 0.8}]})

    prompt: PromptChanges = Field(default=PromptChanges(), description="Fields of the prompt that change.")
    strength: float | None = Field(default=None, allow_inf_nan=False, description="LoRA multiplier.")
    checkpoint: str | None = Field(default=None, description="Another LoRA file, or `base`; left out: the same.")
    step: int | None = Field(default=None, ge=0, le=MAX_STEP, description="Training step of the other checkpoint.")
    draft: Draft | None = Field(
        default=None, description="As in a new sample; false makes the exact one. Left out: as the sample is."
    )

    @model_validator(mode="after")
    def refuse_broken_text(self) -> Self:
        """As in a request for a new sample."""
        return unicode_only(self)


class GridRequest(RunFields):
    """Checkpoints x prompts x strengths x seeds, and the base model once per prompt and seed.

    Only missing samples are made. A run that has samples keeps its model and output.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_GRID_REQUEST]})

    checkpoints: Literal["sampled", "all"] | Annotated[tuple[str, ...], Field(max_length=1000)] = Field(
        default="sampled", description="`sampled` ones of the run, `all` of its directory, or a list of files."
    )
    samples: tuple[str, ...] = Field(
        default=(), max_length=200, description="Take the prompts of these samples, with their seeds."
    )
    prompts: tuple[PromptOrLine, ...] = Field(
        default=(), max_length=200, description="Prompts of your own. With neither: every prompt the run has."
    )
    strengths: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(
        default=(1.0,), min_length=1, max_length=50
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(
        default=(), max_length=50, description="Left out: each prompt's own, or one drawn for all of its checkpoints."
    )
    base: bool = Field(default=True, description="Sample the base model too.")


class SweepRequest(FrozenModel):
    """Strengths and seeds for the checkpoint of a sample."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"strengths": [0.4, 0.6, 0.8, 1.0, 1.2], "seeds": 4}]})

    strengths: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(
        default=(0.4, 0.6, 0.8, 1.0, 1.2), min_length=1, max_length=MAX_VALUES
    )
    seeds: int = Field(default=1, ge=1, le=MAX_VALUES, description="The prompt's own seed and those that follow it.")
    prompts: Literal["this", "all"] = Field(
        default="all", description="Only this sample's prompt, or all of the checkpoint."
    )
    draft: Draft | None = Field(default=None, description="As in a new sample.")


class GridAnswer(FrozenModel):
    """The samples that were missing from a grid."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"run": "cat", "samples": [EXAMPLE_ID], "existing": 4}]})

    run: str
    samples: tuple[str, ...] = Field(description="Ids of the samples that were queued.")
    existing: int = Field(description="Samples that were there, or on their way, already.")
    skipped: tuple[str, ...] = Field(default=(), description="Checkpoints that are gone, and why.")


def unicode_only(asked: M) -> M:
    """`asked`, if every text in it is Unicode.

    Raises:
        ValueError: one is not.
    """
    try:
        asked.model_dump_json()
    except PydanticSerializationError:
        raise ValueError("a text in it is not Unicode: it has half a surrogate pair (\\ud800 to \\udfff)") from None
    return asked


class Sample(JobRecord):
    """One sample: its job, progress and result."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_SAMPLE]})

    media: str | None = Field(default=None, description="Address of the picture or video, once there is one.")
    thumbnail: str | None = Field(default=None, description="Address of a still of it.")

    @classmethod
    def of(cls, record: JobRecord) -> Sample:
        """A record as the API shows it."""
        there = record.result is not None and record.result.path is not None
        fields = {name: getattr(record, name) for name in JobRecord.model_fields}
        address = f"/v1/samples/{record.id}"
        return cls(
            media=f"{address}/media" if there else None, thumbnail=f"{address}/thumbnail" if there else None, **fields
        )


class SamplePage(FrozenModel):
    """Samples by time. `next` is the `cursor` of the page after this one, null on the last."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"samples": [EXAMPLE_SAMPLE], "next": "1767225600.000000"}]}
    )

    samples: tuple[Sample, ...]
    next: str | None = None


class Health(FrozenModel):
    """The process or its queue is well."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: str
