"""Jobs, adapters and looks into an engine, for tests on the pretended cards."""

from __future__ import annotations

import gc
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import lora_support
from engine_support import Recorder
from family_support import FAMILIES, tiny_model_spec, tiny_options
from rushes.checkpoints.safetensors import fingerprint
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob, VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.engine.placement import storage_for
from rushes_service.models.base import Architecture
from rushes_service.models.registry import find
from rushes_service.runtime.devices import DTYPES

FRAMES = 5

DENSE = ("wan2.1-t2v", "hunyuan-video-i2v")
"""Families that are tried in every combination: one with single layers, one with fused ones, a picture and offload."""

LIKE_ANOTHER = {
    "hunyuan-video": "hunyuan-video-i2v",
    "skyreels-v1-t2v": "hunyuan-video-i2v",
    "skyreels-v1-i2v": "hunyuan-video-i2v",
    "hunyuan-video-1.5-i2v": "hunyuan-video-1.5-t2v",
    "framepack-one-frame": "framepack",
    "wan2.1-i2v": "wan2.1-t2v",
    "wan2.1-fun-control": "wan2.1-t2v",
    "wan2.1-flf2v": "wan2.1-t2v",
    "wan-one-frame": "wan2.1-t2v",
    "wan2.2-i2v-a14b": "wan2.2-t2v-a14b",
    "flux2-dev": "flux2-klein",
    "qwen-image": "qwen-image-edit",
    "kandinsky5-i2v": "kandinsky5-t2v",
    "kandinsky5-t2i": "kandinsky5-t2v",  # with a VAE as FLUX.1 has
}
"""Families that have the transformer and the VAE of another one, and other inputs: they are tried in one precision."""

LEADING = [family for family in FAMILIES if family not in LIKE_ANOTHER]


@dataclass
class Workplace:
    """Where a test session keeps tiny models, pictures and caches."""

    home: Path

    def job(
        self,
        family: str,
        lora: Path | None = None,
        *,
        model: dict[str, Any] | None = None,
        vae: VaeOptions | None = None,
        frames: int = FRAMES,
        **options: Any,
    ) -> SampleJob:
        """A job that is sampled in a fraction of a second; `model` changes the model's fields."""
        spec = ARCHITECTURES[family]
        inputs = tiny_options(spec, self.home / "inputs" / family, None if spec.image_only else frames)
        return SampleJob(
            id=uuid.uuid4().hex,
            run="device",
            submission="device",
            model=self.model(family).model_copy(update=model or {}),
            checkpoint=Checkpoint(path=str(lora), fingerprint=fingerprint(lora)) if lora else None,
            prompt=Prompt(**{"prompt": "a red ball", **inputs, **options}),
            vae=vae or VaeOptions(),
            output_dir="/nowhere",
            submitted_at=1_700_000_000.0,
        )

    def model(self, family: str) -> ModelSpec:
        """The family's tiny model."""
        return tiny_model_spec(family, self.home / "models")

    def base(self, family: str, *, model: dict[str, Any], device: str = "cuda:0") -> Architecture:
        """The family's object as an engine makes it, nothing loaded."""
        place = torch.device(device)
        spec = self.model(family).model_copy(update=model)
        base = find(family)(spec, place, DTYPES[str(spec.dtype)])
        base.storage = storage_for(base, place)
        return base

    def engine(self, device: str = "cuda:0", *, fresh: bool = False, **options: Any) -> Engine:
        """An engine; a `fresh` one has an empty cache of conditioning."""
        cache = self.home / "caches" / (uuid.uuid4().hex if fresh else "shared")
        return Engine(device, cache, **options)


@dataclass
class Made:
    """What one sample came to, on the CPU: pixels [3, F, H, W], latents, receipt, and what the watcher heard."""

    pixels: torch.Tensor
    latents: torch.Tensor
    facts: dict[str, Any]
    heard: Recorder

    def same_as(self, other: Made) -> bool:
        """Bit for bit."""
        return torch.equal(self.latents, other.latents) and torch.equal(self.pixels, other.pixels)


def sample(engine: Engine, job: SampleJob, heard: Recorder | None = None) -> Made:
    """Denoise and decode."""
    heard = heard or Recorder()
    made = engine.denoise(job, heard)
    pixels = torch.cat([part.cpu() for part in made.pixels()], dim=1)
    return Made(pixels, made.latents.float().cpu(), made.facts(), heard)


def base_of(engine: Engine) -> Any:
    """The family's object of a warm engine."""
    return engine.loaded.base


def weights_of(engine: Engine) -> dict[str, torch.Tensor]:
    """The transformer's tensors as bytes, on the CPU."""
    state = base_of(engine).transformer.state_dict()
    return {name: value.detach().cpu().contiguous().view(-1).view(torch.uint8).clone() for name, value in state.items()}


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def places_of(engine: Engine) -> set[str]:
    """The devices on which the transformer's parameters lie."""
    return {str(parameter.device) for parameter in base_of(engine).transformer.parameters()}


def settled() -> None:
    """Collect what nobody uses, so that bytes can be compared."""
    gc.collect()


Writer = Callable[[Any, Path], Path]


def low_rank(base: Any, path: Path) -> Path:
    """A LoRA in musubi's format for a family's loaded base model."""
    return written(base, path, lora_support.musubi, original=True)


def kronecker(base: Any, path: Path) -> Path:
    """A LoKr."""
    return written(base, path, lora_support.lokr, original=True)


def hadamard(base: Any, path: Path) -> Path:
    """A LoHa."""
    return written(base, path, lora_support.loha, original=True)


def decomposed(base: Any, path: Path) -> Path:
    """A DoRA in diffusers' format: magnitudes a tenth above those of the base."""
    transformer = base.transformer
    modules = lora_support.linears(transformer, base.lora_names(), original=False)
    adapter = lora_support.diffusers(modules, torch.Generator().manual_seed(5))
    for module in modules:
        weight = transformer.get_submodule(module.targets[0].module).weight.detach().float()
        adapter.tensors[f"transformer.{module.name}.dora_scale"] = weight.norm(dim=1, keepdim=True) * 1.1
    return lora_support.write(adapter, path)


def whole(base: Any, path: Path) -> Path:
    """A checkpoint of all weights, each a hundredth larger."""
    named = base.transformer.named_parameters()
    save_file({name: (value.detach().float() * 1.01).contiguous() for name, value in named}, path)
    return path


def written(base: Any, path: Path, kind: Any, *, original: bool) -> Path:
    modules = once_each(lora_support.linears(base.transformer, base.lora_names(), original=original))
    return lora_support.write(kind(modules, torch.Generator().manual_seed(5)), path)


def once_each(modules: list[lora_support.FileModule]) -> list[lora_support.FileModule]:
    """Without those whose weight an earlier one has under another name."""
    found, seen = [], set[tuple[str, object]]()
    for module in modules:
        weights = {(target.module, target.into) for target in module.targets}
        if not weights & seen:
            found.append(module)
            seen |= weights
    return found


ADAPTERS: dict[str, Writer] = {
    "LoRA": low_rank,
    "LoHa": hadamard,
    "LoKr": kronecker,
    "DoRA": decomposed,
    "full checkpoint": whole,
}
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "float8": {"dtype": "bfloat16", "fp8_base": True},
    "float8 with scales": {"dtype": "bfloat16", "fp8_scaled": True},
}
"""Fields of the model."""


@dataclass
class Watch(Recorder):
    """A recorder that calls `at[stage]` at the first beginning of a stage, and `tries` counts them."""

    at: dict[str, Callable[[], None]] = field(default_factory=dict)

    def stage(self, name: str, total: int = 0) -> None:
        if name not in self.stages and name in self.at:
            self.at[name]()
        super().stage(name, total)
