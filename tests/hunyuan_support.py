"""HunyuanVideo's recorded weights as a diffusers directory, and recorded embeddings as a full cache."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.loaders.single_file_utils import convert_hunyuan_video_transformer_to_diffusers
from safetensors.torch import load_file

from golden_support import SHARED, Case
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.registry import find


def to_diffusers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A transformer's weights under diffusers names; its converter splits single blocks at the real model's width."""
    fused = {name: tensor for name, tensor in weights.items() if ".linear1." in name}
    converted = convert_hunyuan_video_transformer_to_diffusers(
        {name: tensor for name, tensor in weights.items() if name not in fused}
    )
    for name, tensor in fused.items():
        _, block, _, kind = name.split(".")
        width = len(converted[f"single_transformer_blocks.{block}.norm.linear.weight"]) // 3
        parts = tensor.split([width, width, width, len(tensor) - 3 * width])
        for module, part in zip(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), parts, strict=True):
            converted[f"single_transformer_blocks.{block}.{module}.{kind}"] = part
    return converted


def recorded_vae(case: Case) -> AutoencoderKLHunyuanVideo:
    """The VAE that all of HunyuanVideo's cases share."""
    vae = AutoencoderKLHunyuanVideo(**case.arguments("vae"))
    vae.load_state_dict(load_file(SHARED / "hv_vae.safetensors"))
    return vae.eval().requires_grad_(False)


def recorded_model(case: Case, architecture: str, directory: Path) -> ModelSpec:
    """A diffusers directory of the recorded weights, without text encoders."""
    transformer = HunyuanVideoTransformer3DModel(**case.arguments("transformer"))
    transformer.load_state_dict(to_diffusers(case.tensors("dit")))
    encoders = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = HunyuanVideoPipeline(
        transformer=transformer, vae=recorded_vae(case), scheduler=FlowMatchEulerDiscreteScheduler(), **encoders
    )
    pipe.save_pretrained(directory)
    return ModelSpec(architecture=architecture, model=str(directory))


def recorded_engine(case: Case, model: ModelSpec, cache: Path) -> Engine:
    """An engine whose cache holds the recorded embeddings; the model has no text encoder at all."""
    engine = Engine("cpu", cache)
    base = find(model.architecture)(model, engine.device, torch.float32)
    recorded, prompt = case.tensors("embeds"), case.prompt()
    for prefix, text in {"": prompt.prompt, "negative_": prompt.negative_prompt}.items():
        if text is not None:
            tensors = {
                "prompt_embeds": recorded[f"{prefix}llm_embeds"],
                "prompt_attention_mask": recorded[f"{prefix}llm_mask"],
                "pooled_prompt_embeds": recorded[f"{prefix}clipL_embeds"],
            }
            engine.conditioning.write(base.text_key(text), tensors)
    return engine
