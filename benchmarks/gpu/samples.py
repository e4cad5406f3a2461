"""Jobs for tiny models of every family, and the same noise on every device."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import lora_support
from engine_support import Recorder
from family_support import tiny_model_spec, tiny_options
from kit import DEVICE, Kit
from rushes.checkpoints.safetensors import fingerprint
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob, VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.engine.sample import DenoisedSample

FRAMES = 5
Sampled = tuple[torch.Tensor, torch.Tensor, DenoisedSample]
"""Pixels [3, F, H, W] and latents on the CPU, and the sample."""


def make_job(
    kit: Kit,
    family: str,
    lora: Path | None = None,
    *,
    model: ModelSpec | None = None,
    vae: VaeOptions | None = None,
    frames: int = FRAMES,
    **options: Any,
) -> SampleJob:
    """A job; by default for the family's tiny model."""
    inputs = tiny_options(ARCHITECTURES[family], kit.home / f"inputs-{os.getpid()}" / family, frames)
    return SampleJob(
        id=uuid.uuid4().hex,
        run="gpu",
        submission="gpu",
        model=model or tiny_model_spec(family, kit.home / "models"),
        checkpoint=Checkpoint(path=str(lora), fingerprint=fingerprint(lora)) if lora else None,
        prompt=Prompt(**{"prompt": "a red ball", **inputs, **options}),
        vae=vae or VaeOptions(),
        output_dir="/nowhere",
        submitted_at=1_700_000_000.0,
    )


def make_engine(kit: Kit, device: str = DEVICE, dtype: Any = "bfloat16", **options: Any) -> Engine:
    """An engine with an empty cache."""
    return Engine(device, kit.home / "caches" / uuid.uuid4().hex, dtype, **options)


def sample(engine: Engine, job: SampleJob, watch: Any = None) -> Sampled:
    """Denoise and decode."""
    made = engine.denoise(job, watch or Recorder())
    pixels = torch.cat([part.cpu() for part in made.pixels()], dim=1)
    return pixels, made.latents.float().cpu(), made


def base_of(engine: Engine) -> Any:
    """The loaded model of an engine."""
    return engine.loaded.base


def weights_of(engine: Engine) -> dict[str, torch.Tensor]:
    """A copy of the transformer's tensors, where they lie."""
    return {name: value.detach().clone() for name, value in base_of(engine).transformer.state_dict().items()}


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def make_lora(kit: Kit, engine: Engine, family: str, seed: int = 5) -> Path:
    """A LoRA in diffusers' format for the loaded model: there each weight has one name."""
    path = kit.home / f"{family}-{seed}.safetensors"
    modules = lora_support.linears(base_of(engine).transformer, base_of(engine).lora_names(), original=False)
    return lora_support.write(lora_support.diffusers(modules, torch.Generator().manual_seed(seed)), path)


class _AnyGenerator(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _GENERATOR)


_GENERATOR, _RANDN = torch.Generator, torch.randn


@contextlib.contextmanager
def noise_of_the_cpu() -> Iterator[None]:
    """Inside, every draw is the CPU's in float32, whatever its device and precision.

    CUDA's generators draw other numbers than the CPU's, and in half precision the CPU's draw others than in float32.
    """

    class Generator(metaclass=_AnyGenerator):
        def __new__(cls, device: Any = "cpu") -> Any:  # type: ignore[misc]
            return _GENERATOR("cpu")

    def randn(*size: Any, generator: Any = None, device: Any = None, dtype: Any = None, **_: Any) -> torch.Tensor:
        drawn = _RANDN(*size, generator=generator, dtype=torch.float32)
        return drawn.to(device=device, dtype=dtype or torch.get_default_dtype())

    def randn_like(like: torch.Tensor, **options: Any) -> torch.Tensor:
        return randn(like.shape, device=like.device, dtype=options.get("dtype") or like.dtype)

    before = torch.randn_like
    torch.Generator, torch.randn, torch.randn_like = Generator, randn, randn_like  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        torch.Generator, torch.randn, torch.randn_like = _GENERATOR, _RANDN, before  # type: ignore[misc]
