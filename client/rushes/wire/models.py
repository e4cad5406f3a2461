"""The base model of a run, as it travels."""

from __future__ import annotations

import functools
from pathlib import PureWindowsPath
from typing import Literal

from pydantic import Field

from rushes.wire.base import FrozenModel, digest

Dtype = Literal["float32", "bfloat16", "float16"]
Expert = Literal["low", "high"]
Experts = Literal["low", "high", "both"]


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

    text_encoder_qwen: str | None = None
    text_encoder_clip: str | None = None
    """Kandinsky 5's text encoders: directories, or hub ids."""

    t5: str | None = None
    clip: str | None = None
    image_encoder: str | None = None
    dit_high_noise: str | None = None
    """Wan2.2's transformer for much noise; `dit` is the one for little."""

    tokenizer1: str | None = None
    tokenizer2: str | None = None
    """Directories of the tokenizers of the first and the second text encoder; T5 of Wan counts as the first."""

    variant: str | None = Field(default=None, pattern=r"^[\w-]+$")
    """Which weights are read of directories that have several: `fp16` for `model.fp16.safetensors`; None is the plain
    ones, or the only ones there are."""

    dtype: Dtype | None = None
    vae_dtype: Dtype | None = None
    """Precision of the VAE; None is the family's usual one."""

    fp8_base: bool = False
    """Keep the transformer's weights in float8; it computes in `dtype`."""
    fp8_scaled: bool = False
    """The same with scales, and only for the linear layers of its blocks."""

    fp8_fast: bool = False
    """The same with a scale for each row, and products in float8: approximate."""

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

    scheduler_scale: float | None = Field(default=None, gt=0)
    """Kandinsky 5's flow shift, if not that of its version."""

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
