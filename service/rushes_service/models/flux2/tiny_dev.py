"""A tiny FLUX.2 dev model with random weights: real classes, no network, below 2 MB. See `tiny_parts`."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline

from rushes_service.models.flux2.tiny import transformer, vae
from rushes_service.models.llm.tiny import MISTRAL_WIDTH, mistral, mistral_tokenizer
from rushes_service.models.tiny_parts import build_once

RECIPE = 2
"""Raised when a change here makes different weights."""


def build_tiny_flux2_dev(directory: Path, *, seed: int = 0) -> Path:
    """Write a complete `Flux2Pipeline` directory to `directory` and return it; as `build_tiny_wan`.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    recipe = json.dumps({"recipe": RECIPE, "family": "flux2-dev", "seed": seed})
    return build_once(directory, recipe, pipeline, seed=seed)


def pipeline() -> Flux2Pipeline:
    """The tiny pipeline in float32 on the CPU."""
    words = mistral_tokenizer()
    return Flux2Pipeline(
        tokenizer=words,
        text_encoder=mistral(words),
        transformer=transformer(3 * MISTRAL_WIDTH, guided=True),
        vae=vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )
