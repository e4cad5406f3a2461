"""FLUX's recorded weights as a diffusers directory, and recorded embeddings as a full cache."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file

from golden_support import SHARED, Case
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.lora.targets import name_table, renamed
from rushes_service.models.encoders.t5_clip import TextEncoders
from rushes_service.models.flux.kontext import ORIGINAL_NAMES
from rushes_service.models.registry import find


def to_diffusers(model: FluxTransformer2DModel, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in FLUX's own naming under diffusers names, by the rules that LoRA files are read by."""
    names = name_table(model, lambda name: renamed(name, ORIGINAL_NAMES))
    parts: dict[str, dict[int, torch.Tensor]] = {}
    for key, tensor in weights.items():
        module, _, kind = key.rpartition(".")
        for target in names.find(module, flat=False):
            rows = tensor if target.rows is None else tensor[slice(*target.rows)]
            start = 0 if target.into is None else target.into[0]
            parts.setdefault(f"{target.module}.{kind.replace('scale', 'weight')}", {})[start] = rows
    return {name: torch.cat([found[start] for start in sorted(found)]) for name, found in parts.items()}


def recorded_vae(case: Case) -> AutoencoderKL:
    """The VAE, which is stored in half the precision it was recorded in."""
    vae = AutoencoderKL(**case.arguments("vae"))
    stored = {name: tensor.float() for name, tensor in load_file(SHARED / "flux_ae.safetensors").items()}
    vae.load_state_dict(convert_ldm_vae_checkpoint(stored, dict(vae.config)))
    return vae


def recorded_model(case: Case, directory: Path, vae: AutoencoderKL | None = None) -> ModelSpec:
    """A diffusers directory of the recorded weights, without text encoders."""
    transformer = FluxTransformer2DModel(**case.arguments("transformer"))
    transformer.load_state_dict(to_diffusers(transformer, case.tensors("dit")))
    pipe = FluxKontextPipeline(
        transformer=transformer,
        vae=vae or recorded_vae(case),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **dict.fromkeys(TextEncoders.parts),
    )
    pipe.save_pretrained(directory)
    return ModelSpec(architecture="flux1-kontext", model=str(directory))


def recorded_engine(case: Case, model: ModelSpec, cache: Path) -> Engine:
    """An engine whose cache holds the recorded embeddings; the model has no text encoder at all."""
    engine = Engine("cpu", cache)
    base = find(model.architecture)(model, engine.device, torch.float32)
    recorded = case.tensors("embeds")
    tensors = {"prompt_embeds": recorded["t5_vec"], "pooled_prompt_embeds": recorded["clip_l_pooler"]}
    engine.conditioning.write(base.text_key(case.prompt().prompt), tensors)
    return engine
