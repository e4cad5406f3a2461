"""Tiny HunyuanVideo and SkyReels models with random weights: real classes, no network, under 2 MB each."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video, pipeline_hunyuan_video_image2video

from rushes_service.models.encoders.tiny_llama import (
    POOLED_DIM,
    TEXT_DIM,
    clip,
    clip_tokenizer,
    image_processor,
    llama,
    llama_tokenizer,
    llava,
)
from rushes_service.models.tiny_parts import FAINT, VELOCITY_STD, blur, build_once, rescale, stretch_colours
from rushes_service.runtime.compat_diffusers_models import HunyuanVideoUpsampleCausal3D

RECIPE = 1
"""Raised when a change here makes different weights."""

LATENT_CHANNELS = 16
HEADS, HEAD_DIM = 2, 16
PROMPT_GAIN = 6.0
"""Makes the prompt show in the picture."""

TEXT_TEMPLATE = pipeline_hunyuan_video.DEFAULT_PROMPT_TEMPLATE
IMAGE_TEMPLATE = pipeline_hunyuan_video_image2video.DEFAULT_PROMPT_TEMPLATE


def build(name: str, pipeline: Callable[[], DiffusionPipeline], directory: Path, *, seed: int = 0) -> Path:
    """Write the pipeline that `pipeline()` makes to `directory` and return it; `name` tells recipes apart.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    return build_once(directory, json.dumps({"recipe": RECIPE, "family": name, "seed": seed}), pipeline, seed=seed)


def text_to_video() -> HunyuanVideoPipeline:
    """hunyuan-video and skyreels-v1-t2v."""
    return HunyuanVideoPipeline(transformer=transformer(LATENT_CHANNELS), **text_parts(), **other_parts())


def skyreels_image_to_video() -> HunyuanSkyreelsImageToVideoPipeline:
    """skyreels-v1-i2v."""
    model = transformer(2 * LATENT_CHANNELS)
    return HunyuanSkyreelsImageToVideoPipeline(transformer=model, **text_parts(), **other_parts())


def image_to_video(kind: str) -> HunyuanVideoImageToVideoPipeline:
    """hunyuan-video-i2v; `kind` is "latent_concat" or "token_replace"."""
    channels = 2 * LATENT_CHANNELS + 1 if kind == "latent_concat" else LATENT_CHANNELS
    words = llama_tokenizer(IMAGE_TEMPLATE)
    parts = {"tokenizer": words, "text_encoder": llava(words), "image_processor": image_processor()}
    return HunyuanVideoImageToVideoPipeline(transformer=transformer(channels, kind), **parts, **other_parts())


def text_parts() -> dict[str, Any]:
    """Llama and its tokenizer."""
    words = llama_tokenizer(TEXT_TEMPLATE)
    return {"tokenizer": words, "text_encoder": llama(words)}


def other_parts() -> dict[str, Any]:
    """What all of these pipelines have."""
    words = clip_tokenizer()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return {"tokenizer_2": words, "text_encoder_2": clip(words), "vae": vae(), "scheduler": scheduler}


@torch.no_grad()
def transformer(channels: int, kind: str | None = None) -> HunyuanVideoTransformer3DModel:
    """One double and one single block, scaled so that the velocity it predicts is as large as the noise."""
    model = HunyuanVideoTransformer3DModel(
        in_channels=channels,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=TEXT_DIM,
        pooled_projection_dim=POOLED_DIM,
        rope_axes_dim=(4, 6, 6),
        guidance_embeds=kind != "latent_concat",
        image_condition_type=kind,
    ).eval()
    model.requires_grad_(False)
    model.time_text_embed.text_embedder.linear_2.weight *= PROMPT_GAIN
    velocity = model(
        hidden_states=torch.randn(1, channels, 3, 8, 8),
        timestep=torch.tensor([500.0]),
        encoder_hidden_states=torch.randn(1, 8, TEXT_DIM),
        encoder_attention_mask=torch.ones(1, 8),
        pooled_projections=torch.randn(1, POOLED_DIM),
        guidance=torch.tensor([6000.0]),
        return_dict=False,
    )[0]
    rescale(model.proj_out, VELOCITY_STD / velocity.std())
    return model


@torch.no_grad()
def vae() -> AutoencoderKLHunyuanVideo:
    """HunyuanVideo's VAE layout (16 channels, 8 times smaller in space, 4 in time), 4 channels wide at its finest."""
    model = AutoencoderKLHunyuanVideo(block_out_channels=(4, 8, 16, 16), layers_per_block=1, norm_num_groups=2).eval()
    model.requires_grad_(False)
    enlarging = [module for module in model.decoder.modules() if isinstance(module, HunyuanVideoUpsampleCausal3D)]
    last = model.decoder.conv_out.conv
    for layer in (*(module.conv.conv for module in enlarging), last):
        blur(layer)
    rescale(last, FAINT)
    picture = model.decode(torch.randn(1, LATENT_CHANNELS, 3, 16, 16) / model.config.scaling_factor).sample
    stretch_colours(last, picture)
    return model


build_tiny_hunyuan = partial(build, "hunyuan-video", text_to_video)
build_tiny_skyreels_i2v = partial(build, "skyreels-v1-i2v", skyreels_image_to_video)
build_tiny_hunyuan_i2v = partial(build, "hunyuan-video-i2v", partial(image_to_video, "token_replace"))
build_tiny_hunyuan_i2v_33 = partial(build, "hunyuan-video-i2v-33ch", partial(image_to_video, "latent_concat"))
"""HunyuanVideo I2V's first release, of 33 channels."""
