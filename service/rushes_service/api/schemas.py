"""What the routes take and give back, with the examples of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticSerializationError

from rushes.jobs import Frozen, JobRecord, ModelSpec, Prompt, VaeOptions

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

EXAMPLE_SAMPLE: dict[str, Any] = {
    "id": EXAMPLE_ID,
    "run": "cat",
    "media": f"/v1/samples/{EXAMPLE_ID}/media",
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
    """Tells a text from an object, so that an error names the fields of the one that was meant."""
    return Discriminator(lambda value: text_tag if isinstance(value, str) else tag)


PromptOrLine = Annotated[
    Annotated[str, Tag("line")] | Annotated[Prompt, Tag("fields")],
    text_or("fields", "line"),
]
ModelOrSource = Annotated[
    Annotated[str, Tag("source")] | Annotated[ModelSpec, Tag("spec")],
    text_or("spec", "source"),
]


class SampleRequest(Frozen):
    """One sample to be made now, before anything a training run has queued.

    Paths may be relative to one of the server's roots and must lie under one of them.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_LINE, EXAMPLE_FIELDS]})

    architecture: str | None = Field(default=None, description="Model family; left out when `model` is an object.")
    model: ModelOrSource | None = Field(
        default=None,
        description="Base model: a diffusers directory, a hub id, or a whole model object. Left out: the family's own.",
    )
    vae: VaeOptions = Field(default=VaeOptions(), description="How latents are decoded.")
    checkpoint: str | None = Field(default=None, description="LoRA file; null samples the base model.")
    prompt: PromptOrLine = Field(
        description="A prompt line with its options, or its fields. Without a seed one is drawn, so that asking again "
        "makes another picture."
    )
    strength: float | None = Field(
        default=None, allow_inf_nan=False, description="LoRA multiplier; wins over the prompt's own `--m`."
    )
    run: str = Field(default="interactive", min_length=1, max_length=200, description="Run it is listed under.")
    step: int = Field(default=0, ge=0, le=MAX_STEP, description="Training step of the checkpoint; names the file.")
    epoch: int | None = Field(default=None, ge=0, le=MAX_STEP, description="Epoch of the checkpoint; names the file.")
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
    def refuse_broken_text(self) -> SampleRequest:
        """JSON can hold half a surrogate pair (`"\\ud800"`), which no file name and no record can."""
        try:
            self.model_dump_json()
        except PydanticSerializationError:
            raise ValueError("a text in it is not Unicode: it has half a surrogate pair (\\ud800 to \\udfff)") from None
        return self


class Sample(JobRecord):
    """One sample: what was asked for, how far it is, and what came out."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_SAMPLE]})

    media: str | None = Field(default=None, description="Address of the picture or video, once there is one.")

    @classmethod
    def of(cls, record: JobRecord) -> Sample:
        """A record as the API shows it."""
        there = record.result is not None and record.result.path is not None
        fields = {name: getattr(record, name) for name in JobRecord.model_fields}
        return cls(media=f"/v1/samples/{record.id}/media" if there else None, **fields)


class SamplePage(Frozen):
    """Samples, newest first. `next` is the `cursor` of the page after this one, null on the last."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"samples": [EXAMPLE_SAMPLE], "next": f"1767225600.000000-{EXAMPLE_ID}"}]}
    )

    samples: tuple[Sample, ...]
    next: str | None = None


class Health(Frozen):
    """The process or its queue is well."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: str
