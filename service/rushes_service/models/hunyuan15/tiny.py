"""Tiny HunyuanVideo 1.5 models with random weights: real classes, no network, under 2 MB each."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
)
from transformers import (
    ByT5Tokenizer,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from rushes_service.models.hunyuan15.transformer import HunyuanVideo15Transformer
from rushes_service.models.llm.tiny import TEXT_DIM, qwen_tokenizer, qwen_vl
from rushes_service.models.tiny_parts import (
    FAINT,
    VELOCITY_STD,
    blur,
    build_once,
    replace_text,
    rescale,
    stretch_colours,
)
from rushes_service.runtime.compat_diffusers_models import HunyuanVideo15Upsample

RECIPE = 1
"""Raised when a change here or in the parts makes different weights."""

LATENT_CHANNELS = 8
GLYPH_DIM, GLYPH_HIDDEN, IMAGE_DIM = 16, 24, 16
PICTURE, PATCH = 32, 8
"""Pixels: what the image encoder sees, and the side of its patches."""

PROMPT_GAIN = 6.0
"""Makes the prompt show in the picture."""


def build(name: str, image: bool, directory: Path) -> Path:
    """Write a tiny model to `directory`, unless it is there, and return it; `name` tells recipes apart.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    recipe = json.dumps({"recipe": RECIPE, "family": name})
    return build_once(directory, recipe, partial(pipeline, image), after=name_published_classes)


build_tiny_t2v = partial(build, "hunyuan-video-1.5-t2v", False)
build_tiny_i2v = partial(build, "hunyuan-video-1.5-i2v", True)


def name_published_classes(directory: Path) -> None:
    """Name classes as published models do, and such as every version of transformers knows."""
    index = directory / "model_index.json"
    found = json.loads(index.read_text())
    found["transformer"] = ["diffusers", "HunyuanVideo15Transformer3DModel"]
    index.write_text(json.dumps(found, indent=2))
    config = directory / "transformer" / "config.json"
    replace_text(config, '"HunyuanVideo15Transformer"', '"HunyuanVideo15Transformer3DModel"')
    for file in (index, directory / "feature_extractor" / "preprocessor_config.json"):
        if file.exists():
            replace_text(file, "SiglipImageProcessorPil", "SiglipImageProcessor")


def pipeline(image: bool) -> DiffusionPipeline:
    """The tiny pipeline in float32 on the CPU."""
    words = qwen_tokenizer()
    parts: dict[str, Any] = {
        "tokenizer": words,
        "text_encoder": qwen_vl(words),
        "tokenizer_2": ByT5Tokenizer(),
        "text_encoder_2": glyph_encoder(),
        "transformer": transformer(image),
        "vae": vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }
    if not image:
        return HunyuanVideo15Pipeline(**parts)
    return HunyuanVideo15ImageToVideoPipeline(
        image_encoder=image_encoder(), feature_extractor=image_processor(), **parts
    )


def glyph_encoder() -> T5EncoderModel:
    """Two T5 layers over bytes."""
    config = T5Config(
        vocab_size=384, d_model=GLYPH_DIM, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return T5EncoderModel(config).eval().requires_grad_(False)


def image_encoder() -> SiglipVisionModel:
    """Two SigLIP layers."""
    config = SiglipVisionConfig(
        hidden_size=IMAGE_DIM,
        intermediate_size=2 * IMAGE_DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=PICTURE,
        patch_size=PATCH,
    )
    return SiglipVisionModel(config).eval().requires_grad_(False)


def image_processor() -> SiglipImageProcessor:
    """Brings a picture to the size that the image encoder takes."""
    size = {"height": PICTURE, "width": PICTURE}
    return SiglipImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)


@torch.no_grad()
def transformer(image: bool) -> HunyuanVideo15Transformer:
    """Two blocks, scaled so that the velocity it predicts is as large as the noise."""
    model = HunyuanVideo15Transformer(
        in_channels=2 * LATENT_CHANNELS + 1,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_refiner_layers=1,
        text_embed_dim=TEXT_DIM,
        text_embed_2_dim=GLYPH_DIM,
        image_embed_dim=IMAGE_DIM,
        rope_axes_dim=(4, 6, 6),
        task_type="i2v" if image else "t2v",
        glyph_hidden_dim=GLYPH_HIDDEN,
    ).eval()
    model.requires_grad_(False)
    rescale(model.context_embedder.proj_in, PROMPT_GAIN)
    text, glyphs = torch.randn(1, 8, TEXT_DIM), torch.randn(1, 4, GLYPH_DIM)
    velocity = model(
        hidden_states=torch.randn(1, 2 * LATENT_CHANNELS + 1, 3, 4, 4),
        timestep=torch.tensor([500.0]),
        encoder_hidden_states=text,
        encoder_attention_mask=torch.ones(1, 8),
        encoder_hidden_states_2=glyphs,
        encoder_attention_mask_2=torch.ones(1, 4),
        image_embeds=torch.zeros(1, 0, IMAGE_DIM),
        return_dict=False,
    )[0]
    rescale(model.proj_out, VELOCITY_STD / velocity.std())
    return model


@torch.no_grad()
def vae() -> AutoencoderKLHunyuanVideo15:
    """HunyuanVideo 1.5's layout (16 times smaller in space, 4 in time), 4 channels wide at its finest."""
    model = AutoencoderKLHunyuanVideo15(
        latent_channels=LATENT_CHANNELS, block_out_channels=(4, 4, 8, 8, 16), layers_per_block=1
    ).eval()
    model.requires_grad_(False)
    last = model.decoder.conv_out.conv
    enlarging = [part for part in model.decoder.modules() if isinstance(part, HunyuanVideo15Upsample)]
    for layer in (*(part.conv.conv for part in enlarging), last):
        blur(layer)
    rescale(last, FAINT)
    picture = model.decode(torch.randn(1, LATENT_CHANNELS, 3, 4, 4) / model.config.scaling_factor).sample
    stretch_colours(last, picture)
    return model
