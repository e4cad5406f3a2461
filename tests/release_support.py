"""Tiny pipelines as one file in the names of their release, as ComfyUI and sd-scripts have them."""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import AutoencoderKL

from rushes_service.models.generic.names import unet_name
from rushes_service.models.loading.build_plans import build_plans
from rushes_service.models.loading.files.naming import spellings

OPEN_CLIP = (
    (r"layers\.(\d+)\.layer_norm(\d)", r"transformer.resblocks.\1.ln_\2"),
    (r"layers\.(\d+)\.self_attn\.out_proj", r"transformer.resblocks.\1.attn.out_proj"),
    (r"layers\.(\d+)\.mlp\.fc1", r"transformer.resblocks.\1.mlp.c_fc"),
    (r"layers\.(\d+)\.mlp\.fc2", r"transformer.resblocks.\1.mlp.c_proj"),
    (r"final_layer_norm", "ln_final"),
)
"""Modules of a CLIP text encoder, and what OpenCLIP calls them."""

Tensors = dict[str, torch.Tensor]


def released_vae(vae: AutoencoderKL) -> Tensors:
    """A VAE in the names of Stable Diffusion's release. Its attention is made of convolutions there."""
    rule = build_plans()["AutoencoderKL"].rule(dict(vae.config))
    found = {}
    for name, tensor in vae.state_dict().items():
        key, number = next(iter(spellings(name, rule)))
        assert not number
        conv = ".mid.attn_1." in f".{key}" and key.endswith("weight") and tensor.ndim == 2
        found[key] = tensor[..., None, None] if conv else tensor
    return found


def open_clip(weights: Tensors) -> Tensors:
    """OpenCLIP's names of a text encoder with a projection, its projections of attention in one tensor."""
    found = {"text_projection": weights["text_projection.weight"].T}
    bare = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    found["positional_embedding"] = bare["embeddings.position_embedding.weight"]
    found["token_embedding.weight"] = bare["embeddings.token_embedding.weight"]
    for name, tensor in bare.items():
        plain = name.removeprefix("encoder.")
        if match := re.fullmatch(r"layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", plain):
            parts = [bare[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            found[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(parts)
        for pattern, put in OPEN_CLIP:
            renamed, count = re.subn(pattern, put, plain)
            if count:
                found[renamed] = tensor
    return found


def released(pipe: Any) -> Tensors:
    """All weights of Stable Diffusion 1 or of SDXL, as their releases have them."""
    unet = {}
    for name, tensor in pipe.unet.state_dict().items():
        module, _, leaf = name.rpartition(".")
        unet[f"{unet_name(module, pipe.unet)}.{leaf}"] = tensor
    words = {name.removeprefix("text_model."): tensor for name, tensor in pipe.text_encoder.state_dict().items()}
    parts = {"model.diffusion_model.": unet, "first_stage_model.": released_vae(pipe.vae)}
    if "text_encoder_2" in pipe.components:
        parts["conditioner.embedders.0.transformer.text_model."] = words
        parts["conditioner.embedders.1.model."] = open_clip(pipe.text_encoder_2.state_dict())
    else:
        parts["cond_stage_model.transformer.text_model."] = words
    return {prefix + name: tensor.contiguous() for prefix, part in parts.items() for name, tensor in part.items()}
