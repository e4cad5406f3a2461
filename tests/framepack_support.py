"""FramePack's recorded weights as a diffusers directory, and recorded embeddings as a full cache."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from safetensors.torch import load_file

from golden_support import SHARED, Case
from hunyuan_support import recorded_vae
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.framepack.video import FramePackModel
from rushes_service.models.inputs.images import fit, open_image
from rushes_service.models.registry import find


def recorded_model(case: Case, architecture: str, directory: Path) -> ModelSpec:
    """A diffusers directory of the recorded weights, without encoders; F1 and window as they were recorded."""
    transformer = HunyuanVideoFramepackTransformer3DModel(**case.arguments("transformer"))
    transformer.load_state_dict(load_file(SHARED / "framepack_dit.safetensors"))
    transformer.save_pretrained(directory / "transformer")
    recorded_vae(case).save_pretrained(directory / "vae")
    (directory / "model_index.json").write_text(json.dumps({"_class_name": "HunyuanVideoFramepackPipeline"}))
    flags = case.facts["argv"]
    window = int(flags[flags.index("--latent_window_size") + 1]) if "--latent_window_size" in flags else 9
    return ModelSpec(architecture=architecture, model=str(directory), f1="--f1" in flags, latent_window_size=window)


def recorded_engine(case: Case, model: ModelSpec, cache: Path) -> Engine:
    """An engine whose cache holds the recorded embeddings; the model has no encoder at all."""
    engine = Engine("cpu", cache)
    base = find(model.architecture)(model, engine.device, torch.float32)
    assert isinstance(base, FramePackModel)
    recorded, prompt = case.tensors("embeds"), case.prompt()
    for prefix, text in {"": prompt.prompt, "negative_": ""}.items():
        mask = recorded[f"{prefix}llama_attention_mask"][0]
        tensors = {
            "text": recorded[f"{prefix}llama_vec"][:, mask].contiguous(),
            "pooled": recorded[f"{prefix}clip_l_pooler"],
        }
        engine.conditioning.write(base.text_key(text), tensors)
    key = base.image_key(picture_of(prompt))
    engine.conditioning.write(key, {"image": recorded["image_encoder_last_hidden_state"]})
    return engine


def picture_of(prompt: Prompt) -> object:
    """The start image as the image encoder is shown it."""
    return fit(open_image(prompt.image_path, "image_path"), prompt.width, prompt.height)
