"""A tiny Qwen-Image model with random weights: real classes, no network, below 2 MB. See `tiny_parts`."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageLayeredPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

from rushes_service.models.llm.tiny import TEXT_DIM, qwen_tokenizer, qwen_vl
from rushes_service.models.tiny_parts import VELOCITY_STD, build_once, rescale
from rushes_service.models.vae.tiny import qwen_image_vae
from rushes_service.runtime.compat_transformers import PillowQwenProcessor

RECIPE = 4
"""Raised when a change here makes different weights."""

PROMPT_GAIN = 8.0
"""Makes the prompt show in the picture."""

AXES = (4, 6, 6)
"""Rotary dimensions of each head for picture, row and column."""


def build_tiny_qwen(directory: Path, *, seed: int = 0) -> Path:
    """Write a complete `QwenImagePipeline` directory to `directory` and return it; as `build_tiny_wan`.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    recipe = json.dumps({"recipe": RECIPE, "family": "qwen-image", "seed": seed})
    return build_once(directory, recipe, pipeline, seed=seed)


def build_tiny_qwen_edit(directory: Path, *, seed: int = 0) -> Path:
    """Write a complete `QwenImageEditPlusPipeline` directory to `directory` and return it; as `build_tiny_wan`.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    recipe = json.dumps({"recipe": RECIPE, "family": "qwen-image-edit", "seed": seed})
    # Control images have a megapixel, which a CPU convolves slowly.
    return build_once(
        directory, recipe, lambda: pipeline(QwenImageEditPlusPipeline, width=2), seed=seed, after=into_edit
    )


def build_tiny_qwen_layered(directory: Path, *, seed: int = 0) -> Path:
    """Write a complete `QwenImageLayeredPipeline` directory to `directory` and return it; as `build_tiny_wan`.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    recipe = json.dumps({"recipe": RECIPE, "family": "qwen-image-layered", "seed": seed})
    return build_once(directory, recipe, lambda: pipeline(layered=True), seed=seed, after=into_layered)


def into_layered(directory: Path) -> None:
    """Make the directory of a `QwenImagePipeline` one of a layering model."""
    index = json.loads((directory / "model_index.json").read_text())
    index["_class_name"] = QwenImageLayeredPipeline.__name__
    (directory / "model_index.json").write_text(json.dumps(index, indent=2))


def into_edit(directory: Path) -> None:
    """Make the directory of a `QwenImagePipeline` one of an editing model: it has eyes beside its tokenizer."""
    (directory / "tokenizer").rename(directory / "processor")
    PillowQwenProcessor(min_pixels=56 * 56, max_pixels=112 * 112).save_pretrained(directory / "processor")
    index = json.loads((directory / "model_index.json").read_text())
    index.update({"_class_name": QwenImageEditPlusPipeline.__name__, "processor": index.pop("tokenizer")})
    (directory / "model_index.json").write_text(json.dumps(index, indent=2))


def pipeline(
    template: type[DiffusionPipeline] = QwenImagePipeline, width: int = 4, *, layered: bool = False
) -> QwenImagePipeline:
    """The tiny pipeline in float32 on the CPU, for one template of prompts; `width` is the VAE's.

    Args:
        layered: with transparency, and the transformer of Qwen-Image-Layered.
    """
    words = qwen_tokenizer(cut(template))
    return QwenImagePipeline(
        tokenizer=words,
        text_encoder=qwen_vl(words),
        transformer=transformer(layered=layered),
        vae=qwen_image_vae(width=width, channels=4 if layered else 3),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
    )


def cut(kind: type[DiffusionPipeline]) -> tuple[str, int]:
    """What a pipeline puts before its prompts, and of how many tokens that is to be."""
    pipe = kind(**dict.fromkeys(signature(kind.__init__).parameters.keys() - {"self"}))
    return pipe.prompt_template_encode.partition("{}")[0], pipe.prompt_template_encode_start_idx


@torch.no_grad()
def transformer(*, layered: bool = False) -> QwenImageTransformer2DModel:
    """Two blocks, 32 wide, scaled so that the velocity it predicts is as large as the noise."""
    model = QwenImageTransformer2DModel(
        num_layers=2,
        attention_head_dim=sum(AXES),
        num_attention_heads=2,
        joint_attention_dim=TEXT_DIM,
        axes_dims_rope=AXES,
        use_layer3d_rope=layered,
        use_additional_t_cond=layered,
    ).eval()
    model.requires_grad_(False)
    rescale(model.txt_in, PROMPT_GAIN)
    velocity = model(
        hidden_states=torch.randn(1, 16, 64),
        encoder_hidden_states=torch.randn(1, 16, TEXT_DIM),
        timestep=torch.tensor([0.5]),
        img_shapes=[[(1, 4, 4)]],
        additional_t_cond=torch.zeros(1, dtype=torch.long) if layered else None,
    ).sample
    rescale(model.proj_out, VELOCITY_STD / velocity.std())
    return model
