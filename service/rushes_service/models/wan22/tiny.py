"""Tiny Wan2.2 models: two experts made of the parts of Wan2.1's tiny model, and the small model with its own VAE."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanPipeline

from rushes_service.models.loading.configs import variants
from rushes_service.models.tiny_parts import FAINT, PICTURE_STD, blur, build_once, byte_tokenizer, rescale
from rushes_service.models.wan.tiny import scheduler, spatial_convolutions, text_encoder, transformer, vae

CHANNELS = 48
"""Of the latents of Wan2.2's VAE."""

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


def build_tiny_wan22_ti2v(directory: Path) -> Path:
    """Write a tiny model for words and for a start image to `directory`, unless it is there, and return it."""
    recipe = json.dumps({"recipe": RECIPE, "model": "wan2.2-ti2v-5b"})
    return build_once(directory, recipe, text_image_to_video)


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


def text_image_to_video() -> WanPipeline:
    """A pipeline whose tokens have timesteps of their own, and whose VAE is Wan2.2's."""
    coder = vae22()
    return WanPipeline(
        tokenizer=byte_tokenizer(),
        text_encoder=text_encoder(),
        transformer=transformer(in_channels=CHANNELS, layers=1, out_channels=CHANNELS),
        vae=coder,
        scheduler=scheduler(),
        expand_timesteps=True,
    )


@torch.no_grad()
def vae22() -> AutoencoderKLWan:
    """Wan2.2's VAE layout (48 channels, 16 times smaller in space, 4 in time), four channels wide at its finest."""
    published = variants("AutoencoderKLWan")["Wan2.2 VAE"]
    sizes = {"base_dim": 4, "decoder_base_dim": 4, "num_res_blocks": 1}
    model = AutoencoderKLWan.from_config({**published, **sizes}).eval()
    model.requires_grad_(False)
    last = model.decoder.conv_out
    for layer in (*spatial_convolutions(model.decoder), last):
        blur(layer)
    mean, std = (torch.tensor(model.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    rescale(last, FAINT)
    picture = model.decode(torch.randn(1, CHANNELS, 3, 8, 8) * std + mean).sample
    rescale(last, PICTURE_STD / picture.std())
    return model
