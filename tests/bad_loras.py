"""LoRA files that are wrong, each in its own way, and what is said of them. They are for the tiny Wan model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine_support import lora_tensors, write_lora
from rushes.errors import CheckpointFormat, CheckpointIncomplete, LoraMismatch, LoraValue, RushesError


def truncated(path: Path) -> None:
    write_lora(path)
    path.write_bytes(path.read_bytes()[:-8])


def begun(path: Path) -> None:
    write_lora(path)
    path.write_bytes(path.read_bytes()[:100])


def changed(**tensors: torch.Tensor) -> Callable[[Path], None]:
    return lambda path: save_file({**lora_tensors(), **tensors}, path)


def renamed(name: str) -> Callable[[Path], None]:
    return lambda path: save_file({key.replace("blocks", name): t for key, t in lora_tensors().items()}, path)


UP = "lora_unet_blocks_0_ffn_0.lora_up.weight"
DOWN = "lora_unet_blocks_0_ffn_0.lora_down.weight"
BAD: dict[str, tuple[Callable[[Path], object], type[RushesError], str]] = {
    "truncated": (truncated, CheckpointIncomplete, "cut short or still being written"),
    "being written": (begun, CheckpointIncomplete, "still being written"),
    "pickled": (lambda path: torch.save({"a": torch.zeros(2)}, path), CheckpointFormat, "this is a pickle"),
    "empty": (lambda path: save_file({}, path), LoraMismatch, "holds no tensors"),
    "foreign": (renamed("down_blocks"), LoraMismatch, "36 of 36 keys.*looks like stable-diffusion: 36 of 36 keys"),
    "one key too many": (changed(**{"x.lora_up.weight": torch.zeros(2, 2)}), LoraMismatch, "1 of 37 keys"),
    "other size": (changed(**{DOWN: torch.zeros(4, 96)}), LoraValue, "another size"),
    "not finite": (changed(**{UP: torch.full((128, 4), float("nan"))}), LoraValue, "NaN or infinity"),
    "halves apart": (changed(**{UP: torch.zeros(128, 5)}), LoraValue, "rank 4 in its down matrix but 5"),
    "odd alpha": (changed(**{"lora_unet_blocks_0_ffn_0.alpha": torch.zeros(3)}), LoraValue, "must be one number"),
    "flat factor": (changed(**{DOWN: torch.tensor(1.0)}), LoraValue, "a single number for its down matrix"),
    "Tucker": (
        changed(**{"lora_unet_blocks_0_ffn_0.lora_mid.weight": torch.zeros(4, 4, 3, 3)}),
        LoraValue,
        "Tucker decomposition",
    ),
    "wrong DoRA scale": (
        changed(**{"lora_unet_blocks_0_ffn_0.dora_scale": torch.zeros(7, 1)}),
        LoraValue,
        r"DoRA scale \[7, 1\] for a weight \[128, 64\]",
    ),
    "LoHa apart": (
        lambda path: save_file(
            {f"lora_unet_blocks_0_ffn_0.hada_w{i}_{h}": torch.zeros(4, 3) for i in (1, 2) for h in "ab"}, path
        ),
        LoraValue,
        "LoHa factors that do not fit each other",
    ),
}
"""How to make it, the error, and a part of its message (a regular expression)."""
