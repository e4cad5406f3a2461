"""Recorded Wan cases as model directories, and engines that hold their embeddings."""

from __future__ import annotations

from pathlib import Path

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
from rushes.wire.jobs import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.registry import find
from rushes_service.models.wan.inputs import IMAGE_TOKENS

TEXT_TOKENS = 512


def recorded_model(case: Case, architecture: str, directory: Path) -> ModelSpec:
    """A diffusers directory of the recorded weights, which bear their original names; it has no encoders."""
    transformer, vae = recorded_transformer(case, case.tensors("dit")), recorded_vae(case)
    images = transformer.config.in_channels > vae.config.z_dim
    pipe = (WanImageToVideoPipeline if images else WanPipeline)(
        tokenizer=None, text_encoder=None, transformer=transformer, vae=vae, scheduler=UniPCMultistepScheduler()
    )
    pipe.save_pretrained(directory)
    return ModelSpec(architecture=architecture, model=str(directory))


def recorded_transformer(case: Case, weights: dict[str, torch.Tensor]) -> WanTransformer3DModel:
    """A transformer of the case's size with `weights` under their original names."""
    transformer = WanTransformer3DModel(**case.arguments("transformer"))
    transformer.load_state_dict(convert_wan_transformer_to_diffusers(dict(weights)))
    return transformer


def recorded_vae(case: Case) -> AutoencoderKLWan:
    """The VAE that all of Wan's cases share."""
    vae = AutoencoderKLWan(**case.arguments("vae"))
    vae.load_state_dict(convert_wan_vae_to_diffusers(load_file(SHARED / "wan_vae.safetensors")))
    return vae


def recorded_engine(case: Case, model: ModelSpec, cache: Path) -> Engine:
    """An engine with the recorded embeddings in its cache."""
    engine, prompt, recorded = Engine("cpu", cache), case.prompt(), case.tensors("embeds")
    base = find(model.architecture)(model, engine.device, torch.float32)
    texts = {prompt.prompt: recorded["t5_embeds"], prompt.negative_prompt: recorded["negative_t5_embeds"]}
    for text, embeds in texts.items():
        padded = torch.zeros(1, TEXT_TOKENS, embeds.shape[1])
        padded[0, : len(embeds)] = embeds
        engine.conditioning.write(base.text_key(text), {"embeds": padded})
    if prompt.image_path is not None:
        engine.conditioning.write(base.image_key(prompt.image_path), {IMAGE_TOKENS: recorded["clip_embeds"]})
    return engine
