"""FLUX's recorded weights as a diffusers directory, and recorded embeddings as a full cache."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file

from golden_support import SHARED, Case
from rushes.jobs import ModelSpec
from rushes_service.architectures.flux import FluxKontext
from rushes_service.architectures.registry import find
from rushes_service.architectures.t5_clip import COMPONENTS
from rushes_service.engine import Engine

BLOCKS = {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}
NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}


def to_diffusers(model: FluxTransformer2DModel, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in FLUX's own naming under diffusers names, for the modules of `model`."""
    family = object.__new__(FluxKontext)
    family._pipe = type("Parts", (), {"transformer": model})
    names = family.lora_names()
    converted: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        module, _, kind = key.rpartition(".")
        if kind == "scale":
            blocks, number, norm = re.fullmatch(r"(\w+)\.(\d+)\.(.+)", module).groups()  # type: ignore[union-attr]
            converted[f"{BLOCKS[blocks]}.{number}.{NORMS[norm]}.weight"] = tensor
        elif module == "final_layer.adaLN_modulation.1":
            shift, scale = tensor.chunk(2)
            converted[f"norm_out.linear.{kind}"] = torch.cat([scale, shift])
        else:
            for target in names.find(module, flat=False):
                rows = tensor if target.rows is None else tensor[slice(*target.rows)]
                converted[f"{target.module}.{kind}"] = rows
    return converted


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
        **dict.fromkeys(COMPONENTS),
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
