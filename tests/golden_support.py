"""Recorded cases of the reference sampler, and engines that sample them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from engine_support import Recorder
from rushes.checkpoints.safetensors import fingerprint
from rushes.prompts.files import load_prompts
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob, VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import DenoisedSample, Engine

GOLDEN = Path(__file__).parent / "golden"
SHARED = GOLDEN / "_shared"


@dataclass(frozen=True)
class Case:
    """One directory of `tests/golden`."""

    name: str

    @property
    def directory(self) -> Path:
        return GOLDEN / self.name

    @cached_property
    def facts(self) -> dict[str, Any]:
        return json.loads((self.directory / "case.json").read_text())

    @cached_property
    def expected(self) -> dict[str, torch.Tensor]:
        return load_file(self.directory / "expected.safetensors")

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.directory / f"{name}.safetensors")

    def prompt(self, file: str = "prompts.txt") -> Prompt:
        (prompt,) = load_prompts(self.directory / file)
        return prompt

    @property
    def lora(self) -> Path:
        return self.directory / "lora.safetensors"

    def arguments(self, part: str) -> dict[str, Any]:
        """How the diffusers class of `part` ("transformer", "vae") is built."""
        return self.facts["diffusers"][part]["kwargs"]


def sample(
    engine: Engine, model: ModelSpec, prompt: Prompt, lora: Path | None = None, vae: VaeOptions | None = None
) -> DenoisedSample:
    """`prompt` denoised by `engine`, through a job as a worker gets it."""
    job = SampleJob(
        id="0" * 32,
        run="golden",
        submission="golden",
        model=model,
        vae=vae or VaeOptions(),
        checkpoint=Checkpoint(path=str(lora), fingerprint=fingerprint(lora)) if lora else None,
        prompt=prompt,
        output_dir="/",
    )
    return engine.denoise(job, Recorder())


def video(denoised: DenoisedSample) -> torch.Tensor:
    """The decoded clip, [1, 3, F, H, W] in 0..1."""
    return torch.cat(list(denoised.pixels()), dim=1)[None]


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference of two tensors of one shape."""
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


def without_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
