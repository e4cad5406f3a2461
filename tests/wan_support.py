"""Recorded Wan cases as model directories, and engines that hold their embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from safetensors.torch import load_file

from golden_support import SHARED, Case
from rushes.families.rows.wan import WAN_NEGATIVE_PROMPT
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.registry import find
from rushes_service.models.wan.inputs import IMAGE_TOKENS

TEXT_TOKENS = 512


def recorded_model(case: Case, architecture: str, directory: Path, **more: Any) -> ModelSpec:
    """A diffusers directory of the recorded weights, which bear their original names; it has no encoders.

    `more` are other parts of the pipeline.
    """
    vae = recorded_vae(case)
    parts = {"transformer": recorded_transformer(case, case.tensors("dit")), **more}
    images = parts["transformer"].config.in_channels > vae.config.z_dim
    pipe = (WanImageToVideoPipeline if images else WanPipeline)(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=UniPCMultistepScheduler(), **parts
    )
    pipe.save_pretrained(directory)
    return ModelSpec(architecture=architecture, model=str(directory))


def recorded_transformer(case: Case, weights: dict[str, torch.Tensor]) -> WanTransformer3DModel:
    """A transformer of the case's size with `weights` under their original names."""
    transformer = WanTransformer3DModel(**case.arguments("transformer"))
    converted = convert_wan_transformer_to_diffusers(dict(weights))
    if (places := converted.pop("img_emb.emb_pos", None)) is not None:  # diffusers' converter leaves it
        converted["condition_embedder.image_embedder.pos_embed"] = places
    transformer.load_state_dict(converted)
    return transformer


def recorded_vae(case: Case) -> AutoencoderKLWan:
    """The VAE that all of Wan's cases share."""
    vae = AutoencoderKLWan(**case.arguments("vae"))
    vae.load_state_dict(convert_wan_vae_to_diffusers(load_file(SHARED / "wan_vae.safetensors")))
    return vae


def recorded_engine(
    case: Case,
    model: ModelSpec,
    cache: Path,
    recorded: dict[str, torch.Tensor] | None = None,
    prompt: Prompt | None = None,
) -> Engine:
    """An engine with the recorded embeddings in its cache, by default those of the case and of its first prompt."""
    engine, prompt, recorded = Engine("cpu", cache), prompt or case.prompt(), recorded or case.tensors("embeds")
    base = find(model.architecture)(model, engine.device, torch.float32)
    negative = WAN_NEGATIVE_PROMPT if prompt.negative_prompt is None else prompt.negative_prompt
    texts = {prompt.prompt: recorded["t5_embeds"], negative: recorded["negative_t5_embeds"]}
    for text, embeds in texts.items():
        padded = torch.zeros(1, TEXT_TOKENS, embeds.shape[1])
        padded[0, : len(embeds)] = embeds
        engine.conditioning.write(base.text_key(text), {"embeds": padded})
    if "clip_embeds" in recorded:
        engine.conditioning.write(base.image_key(prompt.image_path), {IMAGE_TOKENS: recorded["clip_embeds"]})
    return engine
