"""Tiny Wan models beyond text to video: made of the parts of the demo's model, and as deterministic."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from diffusers import DiffusionPipeline, WanImageToVideoPipeline
from transformers import CLIPVisionConfig, CLIPVisionModel

from rushes_service.models.tiny_parts import build_once, byte_tokenizer
from rushes_service.models.wan.tiny import scheduler, text_encoder, transformer, vae

RECIPE = 1
"""Raised when a change here or in the parts makes different weights."""

IMAGE_DIM = 32


def build_tiny_wan_i2v(directory: Path) -> Path:
    """Write a tiny Wan2.1 image-to-video model to `directory`, unless it is there, and return it."""
    return build(directory, "wan2.1-i2v", lambda: with_images(in_channels=36))


def build_tiny_wan_flf2v(directory: Path) -> Path:
    """Write a tiny Wan2.1 first and last frame model to `directory`, unless it is there, and return it."""
    return build(directory, "wan2.1-flf2v", lambda: with_images(in_channels=36, pictures=2))


def build_tiny_wan_fun_control(directory: Path) -> Path:
    """Write a tiny Wan2.1-Fun-Control model to `directory`, unless it is there, and return it."""
    return build(directory, "wan2.1-fun-control", lambda: with_images(in_channels=48))


def build(directory: Path, name: str, make: Callable[[], DiffusionPipeline]) -> Path:
    """Write the pipeline that `make` makes to `directory`; `name` tells recipes apart."""
    return build_once(directory, json.dumps({"recipe": RECIPE, "model": name}), make)


def with_images(in_channels: int, pictures: int = 1) -> WanImageToVideoPipeline:
    """A pipeline whose transformer takes latents beside the noise, and image tokens of one or two pictures."""
    return WanImageToVideoPipeline(
        tokenizer=byte_tokenizer(),
        text_encoder=text_encoder(),
        image_encoder=image_encoder(),
        transformer=transformer(in_channels, IMAGE_DIM, pictures=pictures),
        vae=vae(),
        scheduler=scheduler(),
    )


def image_encoder() -> CLIPVisionModel:
    """Three layers of CLIP's vision tower over 257 tokens."""
    config = CLIPVisionConfig(
        hidden_size=IMAGE_DIM,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=224,
        patch_size=14,
        hidden_act="gelu",
    )
    return CLIPVisionModel(config).eval().requires_grad_(False)
