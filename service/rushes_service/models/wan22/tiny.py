"""Tiny Wan2.2 models: two experts made of the parts of Wan2.1's tiny model."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import WanImageToVideoPipeline, WanPipeline

from rushes_service.models.tiny_parts import build_once, byte_tokenizer
from rushes_service.models.wan.tiny import scheduler, text_encoder, transformer, vae

RECIPE = 1
"""Raised when a change here or in the parts makes different weights."""


def build_tiny_wan22_t2v(directory: Path) -> Path:
    """Write a tiny text-to-video model with two experts to `directory`, unless it is there, and return it."""
    recipe = json.dumps({"recipe": RECIPE, "model": "wan2.2-t2v-a14b"})
    return build_once(directory, recipe, text_to_video)


def build_tiny_wan22_i2v(directory: Path) -> Path:
    """Write a tiny image-to-video model with two experts to `directory`, unless it is there, and return it."""
    recipe = json.dumps({"recipe": RECIPE, "model": "wan2.2-i2v-a14b"})
    return build_once(directory, recipe, image_to_video)


def text_to_video() -> WanPipeline:
    """A pipeline with a transformer for much noise and another for little."""
    return WanPipeline(
        tokenizer=byte_tokenizer(),
        text_encoder=text_encoder(),
        transformer=transformer(layers=1),
        transformer_2=transformer(layers=1),
        vae=vae(),
        scheduler=scheduler(),
        boundary_ratio=0.875,
    )


def image_to_video() -> WanImageToVideoPipeline:
    """The same with the start image's latents beside the noise, and without an image encoder."""
    return WanImageToVideoPipeline(
        tokenizer=byte_tokenizer(),
        text_encoder=text_encoder(),
        transformer=transformer(in_channels=36, layers=1),
        transformer_2=transformer(in_channels=36, layers=1),
        vae=vae(),
        scheduler=scheduler(),
        boundary_ratio=0.9,
    )
