"""Names of modules in LoRA files beside diffusers' own, for some pipelines, and the families that files speak of."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import diffusers
from transformers import CLIPTextModel

from rushes_service.lora.targets import renamed
from rushes_service.models.flux.names import ORIGINAL_NAMES

FAMILIES = (
    (r"StableDiffusion3", "stable-diffusion-3"),
    (r"StableDiffusionXL|AnimateDiffSDXL", "stable-diffusion-xl"),
    (r"StableDiffusion|AnimateDiff|PIA|LatentConsistency", "stable-diffusion-1"),
    (r"Chroma", "chroma"),
    (r"Flux2", "flux2"),
    (r"Flux", "flux1"),
    (r"LTX2", "ltx-2"),
    (r"LTX", "ltx-video"),
    (r"CogVideoX", "cogvideox"),
    (r"(Lumina|HiDream|PixArt|Sana|AuraFlow|Kolors|Kandinsky|OmniGen|Cosmos|Mochi)", ""),
)
"""Beginnings of pipelines' names, and what the headers of LoRA files call the family; "" is the word itself."""


def family_of(pipeline: str) -> str:
    """The family of a pipeline's class, as `lora.reading.families` names it; its own name if it is none of those."""
    for pattern, label in FAMILIES:
        if match := re.match(pattern, pipeline):
            return label or match[1].lower()
    return pipeline


def original_names(model: Any) -> Callable[[str], str]:
    """The rule from diffusers' names of modules to those that trainers write for `model`."""
    if isinstance(model, diffusers.FluxTransformer2DModel):
        return lambda name: renamed(name, ORIGINAL_NAMES)
    if isinstance(model, diffusers.UNet2DConditionModel):
        return lambda name: unet_name(name, model)
    return lambda name: name


def text_names(model: Any) -> Callable[[str], str]:
    """The rule for a text encoder. CLIP has a `text_model` around it in files of all but the newest transformers."""
    wrapped = hasattr(model, "text_model") or not isinstance(model, CLIPTextModel)
    return lambda name: name if wrapped else f"text_model.{name}"


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""Modules of a UNet, and their names in the release of Stable Diffusion, which sd-scripts writes for SDXL."""

BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def unet_name(name: str, unet: Any) -> str:
    """A module's name in the release of Stable Diffusion (`input_blocks.4.1.proj_in`), from diffusers' name.

    There, blocks are numbered through: a residual layer with its attention is one, a change of size another or, on the
    way up, the last part of the one before it.
    """
    if match := MIDDLE.fullmatch(name):
        kind, index, inner = match[1], int(match[2]), match[3]
        return f"middle_block.{1 if kind == 'attentions' else 2 * index}.{RESNET.get(inner, inner)}"
    match = BLOCK.fullmatch(name)
    if match is None:
        return OUTSIDE.get(name, name)
    way, level, kind, index, inner = match[1], int(match[2]), match[3], int(match[4]), match[5]
    layers = int(unet.config.layers_per_block)
    if way == "down":
        number = level * (layers + 1) + 1 + (layers if kind == "downsamplers" else index)
        begin = f"input_blocks.{number}"
    else:
        number = level * (layers + 1) + (layers if kind == "upsamplers" else index)
        begin = f"output_blocks.{number}"
    if kind == "downsamplers":
        return f"{begin}.0.{'op' if inner == 'conv' else inner}"
    if kind == "upsamplers":
        return f"{begin}.{2 if getattr(unet.up_blocks[level], 'attentions', None) else 1}.{inner}"
    return f"{begin}.1.{inner}" if kind == "attentions" else f"{begin}.0.{RESNET.get(inner, inner)}"
