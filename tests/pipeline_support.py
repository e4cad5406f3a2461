"""Any pipeline of diffusers, by the engine and by a bare script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from safetensors.torch import load_file, save_file

from golden_support import sample
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.engine.sample import DenoisedSample
from rushes_service.models.generic.names import unet_name

TEXT = "a red ball on a green hill"


def bare(
    model: Path, adapter: Path | None = None, *, fuse: bool = True, variant: str | None = None, **arguments: Any
) -> torch.Tensor:
    """Pixels [3, F, H, W] in 0..1, as a script makes them that knows diffusers alone.

    Without `fuse` the LoRA stays beside the weights: some pipelines fuse that of their transformer alone.
    """
    pipe = DiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, variant=variant)
    return pixels_of(pipe, adapter, fuse=fuse, **arguments)


def pixels_of(
    pipe: DiffusionPipeline, adapter: Path | None = None, *, fuse: bool = True, **arguments: Any
) -> torch.Tensor:
    """What a pipeline makes; as `bare`."""
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        for weight in part.parameters() if isinstance(part, ModelMixin) else ():
            # In a mapped file they lie at odd addresses, where some kernels of a CPU round otherwise.
            weight.data = weight.data.clone()
    if adapter is not None and not hasattr(pipe, "load_lora_weights"):
        add_adapter(pipe, adapter)
    elif adapter is not None:
        pipe.load_lora_weights(adapter)
    if adapter is not None and fuse and hasattr(pipe, "load_lora_weights"):
        pipe.fuse_lora()
        pipe.unload_lora_weights()
    generator = torch.Generator("cpu").manual_seed(5)
    made = pipe(prompt=TEXT, generator=generator, output_type="pt", **arguments)
    frames = made.images[0][None] if hasattr(made, "images") else made.frames[0]
    return frames.transpose(0, 1).float()


@torch.no_grad()
def add_adapter(pipe: DiffusionPipeline, adapter: Path) -> None:
    """Add a LoRA in diffusers' names to a pipeline for which diffusers itself has no loader."""
    tensors = load_file(adapter)
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            name = key.removesuffix(".lora_A.weight")
            part, _, module = name.partition(".")
            weight = getattr(pipe, part).get_submodule(module).weight
            weight += tensors[f"{name}.lora_B.weight"] @ tensors[key]


def spec_of(model: Path, **parts: Any) -> ModelSpec:
    return ModelSpec(architecture="diffusers", model=str(model), **parts)


def drawn(model: Path | ModelSpec, cache: Path, adapter: Path | None = None, **options: Any) -> DenoisedSample:
    spec = model if isinstance(model, ModelSpec) else spec_of(model)
    prompt = Prompt(**{"prompt": TEXT, "seed": 5, **options})
    return sample(Engine("cpu", cache), spec, prompt, adapter)


def pixels(denoised: DenoisedSample) -> torch.Tensor:
    return torch.cat(list(denoised.pixels()), dim=1)


def write_adapter(path: Path, model: Path, *, style: str = "diffusers", extra: tuple[str, ...] = ()) -> Path:
    """A LoRA of every attention projection of a pipeline, in diffusers' names, flattened, or those of the release."""
    pipe = DiffusionPipeline.from_pretrained(model)
    part = "transformer" if "transformer" in pipe.components else "unet"
    random, tensors = torch.Generator().manual_seed(0), {}
    for name, module in getattr(pipe, part).named_modules():
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in ("to_q", "to_k", "to_v"):
            rows, columns = module.weight.shape
            down, up = torch.randn(4, columns, generator=random), torch.randn(rows, 4, generator=random)
            flat = style != "diffusers"
            called = unet_name(name, pipe.unet) if style == "release" else name
            begin = f"lora_unet_{called.replace('.', '_')}" if flat else f"{part}.{name}"
            names = ("lora_down.weight", "lora_up.weight") if flat else ("lora_A.weight", "lora_B.weight")
            tensors |= {f"{begin}.{names[0]}": down * 0.1, f"{begin}.{names[1]}": up * 0.1}
    tensors |= {f"{name}.{end}.weight": torch.zeros(4, 4) for name in extra for end in ("lora_down", "lora_up")}
    save_file(tensors, path)
    return path
