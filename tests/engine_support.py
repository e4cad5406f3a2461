"""Jobs, watchers and LoRA files for tests of the engine."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: tests never reach the network

import torch
from safetensors.torch import load_file, save_file

from rushes.checkpoints.safetensors import fingerprint
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob
from rushes.wire.models import ModelSpec

torch.set_num_threads(1)

WAN_LINEARS = ("self_attn.q", "self_attn.o", "cross_attn.k", "cross_attn.v", "ffn.0", "ffn.2")
DIFFUSERS_NAMES = {
    "self_attn.q": "attn1.to_q",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
WIDTH, FFN_WIDTH, BLOCKS = 64, 128, 2
"""Of the tiny model's transformer."""


@dataclass
class Recorder:
    """A watcher that notes what it is told, and raises `stop` when it hears `stop_at`."""

    stop_at: str | int | None = None
    stop: Exception | None = None
    stages: list[str] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)

    def stage(self, name: str, total: int = 0) -> None:
        self.stages.append(name)
        self._maybe_stop(name)

    def step(self, done: int, total: int) -> None:
        self.steps.append((done, total))
        self._maybe_stop(done)

    def _maybe_stop(self, heard: str | int) -> None:
        if self.stop is not None and heard == self.stop_at:
            raise self.stop


def tiny_prompt(**options: Any) -> Prompt:
    """A prompt that is sampled in well under a second."""
    defaults = {"prompt": "a red ball", "width": 32, "height": 32, "frame_count": 5, "sample_steps": 2, "seed": 3}
    return Prompt(**{**defaults, **options})


def make_job(
    model: Path, lora: Path | None = None, *, output_dir: Path = Path("/nowhere"), **options: Any
) -> SampleJob:
    """A job for the tiny model; `options` are the prompt's."""
    return SampleJob(
        id=uuid.uuid4().hex,
        run="test",
        submission="test",
        model=ModelSpec(architecture="wan2.1-t2v", model=str(model)),
        checkpoint=Checkpoint(path=str(lora), fingerprint=fingerprint(lora)) if lora else None,
        prompt=tiny_prompt(**options),
        output_dir=str(output_dir),
        submitted_at=1_700_000_000.0,
    )


def lora_shapes(layer: str) -> tuple[int, int]:
    """Rows and columns of one of the tiny transformer's weights."""
    if layer == "ffn.0":
        return FFN_WIDTH, WIDTH
    return (WIDTH, FFN_WIDTH) if layer == "ffn.2" else (WIDTH, WIDTH)


def lora_tensors(
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: float | None = 2.0,
    style: str = "musubi",
    layers: tuple[str, ...] = WAN_LINEARS,
    blocks: int = BLOCKS,
) -> dict[str, torch.Tensor]:
    """A random LoRA for the tiny transformer, as `style` ("musubi", "diffusers" or "comfyui") names its tensors."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for block in range(blocks):
        for layer in layers:
            rows, columns = lora_shapes(layer)
            if style == "musubi":
                name = f"lora_unet_blocks_{block}_{layer.replace('.', '_')}"
                down, up = f"{name}.lora_down.weight", f"{name}.lora_up.weight"
            else:
                prefix, own = (
                    ("transformer", DIFFUSERS_NAMES[layer]) if style == "diffusers" else ("diffusion_model", layer)
                )
                name = f"{prefix}.blocks.{block}.{own}"
                down, up = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
            tensors[down] = torch.randn(rank, columns, generator=generator) * 0.2
            tensors[up] = torch.randn(rows, rank, generator=generator) * 0.2
            if alpha is not None:
                tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def write_lora(path: Path, **options: Any) -> Path:
    """A LoRA file made of `lora_tensors`."""
    save_file(lora_tensors(**options), path)
    return path


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """The transformer's weights as they lie on disk."""
    return load_file(directory / "transformer" / "diffusion_pytorch_model.safetensors")
