"""Files that say two things at once are refused: nothing in a file is passed over without a word. Wrapped names fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine_support import lora_tensors, write_lora
from rushes.errors import LoraMismatch, LoraValue
from rushes_service.lora.merge import LoraMerger
from rushes_service.lora.reading import Lora, read_lora
from rushes_service.models.wan.names import wan_names
from rushes_service.models.wan.tiny import transformer

NAME = "diffusion_model.blocks.0.self_attn.q"
FLAT = "lora_unet_blocks_0_self_attn_q"
LORA = {"lora_A.weight": (4, 64), "lora_B.weight": (64, 4)}
LOHA = {"hada_w1_a": (64, 4), "hada_w1_b": (4, 64), "hada_w2_a": (64, 4), "hada_w2_b": (4, 64)}
LOKR = {"lokr_w1": (8, 8), "lokr_w2": (8, 8)}
Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return transformer()


def read(model: nn.Module, path: Path, **options: bool) -> Lora:
    return read_lora(path, wan_names(model), LoraMerger(model).shapes, family="wan2.1-t2v", **options)


def module(parts: Shapes, name: str = NAME) -> Shapes:
    return {f"{name}.{part}": shape for part, shape in parts.items()}


CLASHES: dict[str, tuple[Shapes, str]] = {
    "two prefixes": (module(LORA) | module(LORA, NAME.replace("diffusion_model", "transformer")), "are the same"),
    "two names of a half": (module({**LORA, "lora_down.weight": (4, 64)}), r"lora_A.weight and .* are the same"),
    "dotted and flat": (
        module(LORA) | module({"lora_down.weight": (4, 64), "lora_up.weight": (64, 4)}, FLAT),
        "two names",
    ),
    "original and diffusers": (module(LORA) | module(LORA, "transformer.blocks.0.attn1.to_q"), "under two names"),
    "LoRA and LoHa": (module(LORA | LOHA), "has LoRA and LoHa at once"),
    "LoRA and LoKr": (module(LORA | LOKR), "has LoRA and LoKr at once"),
    "LoRA and difference": (module({**LORA, "diff": (64, 64)}), "has LoRA and difference at once"),
    "two biases": (module({**LORA, "lora_B.bias": (64,), "diff_b": (64,)}), "has diff_b and up_bias at once"),
    "LoKr whole and in parts": (module({**LOKR, "lokr_w1_a": (8, 2)}), "lokr_w1 whole and as factors"),
    "DoRA of a difference": (module({"diff": (64, 64), "dora_scale": (64, 1)}), "DoRA scale beside a difference"),
    "DoRA of a bias": (module({"diff_b": (64,), "dora_scale": (64, 1)}), "nothing that it scales"),
    "Tucker": (module({**LOHA, "hada_t1": (4, 4, 2, 2), "hada_t2": (4, 4, 2, 2)}), "is a Tucker decomposition"),
    "not gathered": (module({"lora_A.weight": (0,), "lora_B.weight": (0,)}), "empty down matrix; were shards"),
}


@pytest.mark.parametrize("clash", CLASHES)
def test_a_file_that_says_two_things_of_one_weight_is_refused(model: nn.Module, tmp_path: Path, clash: str) -> None:
    shapes, message = CLASHES[clash]
    save_file({key: torch.ones(shape) for key, shape in shapes.items()}, tmp_path / "a.safetensors")
    with pytest.raises(LoraValue, match=message):
        read(model, tmp_path / "a.safetensors")


def test_a_whole_checkpoint_with_a_weight_under_two_names_is_refused(model: nn.Module, tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["blocks.0.self_attn.q.weight"] = torch.ones(64, 64)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(LoraValue, match=r"blocks.0.attn1.to_q.weight is in it under two names"):
        read(model, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("style", "start", "wrapped"),
    [
        ("comfyui", "diffusion_model.", "diffusion_model._orig_mod."),
        ("diffusers", "transformer.blocks.", "module.transformer.blocks._orig_mod."),
        ("musubi", "lora_unet_", "lora_unet__orig_mod_"),
    ],
)
def test_names_from_inside_a_wrapped_model_fit(
    model: nn.Module, tmp_path: Path, style: str, start: str, wrapped: str
) -> None:
    plain = read(model, write_lora(tmp_path / "plain.safetensors", style=style))
    tensors = {key.replace(start, wrapped): tensor for key, tensor in lora_tensors(style=style).items()}
    save_file(tensors, tmp_path / "wrapped.safetensors")
    found = read(model, tmp_path / "wrapped.safetensors")
    assert {patch.parameter for patch in found.patches} == {patch.parameter for patch in plain.patches}


def test_a_wrapped_whole_checkpoint_fits(model: nn.Module, tmp_path: Path) -> None:
    tensors = {f"module._orig_mod.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    assert read(model, tmp_path / "a.safetensors").report.unmatched == 0
    del tensors["module._orig_mod.proj_out.bias"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(LoraMismatch, match=r"proj_out.bias; is it one part"):
        read(model, tmp_path / "a.safetensors")


def test_a_whole_checkpoint_with_scales_beside_its_weights_is_never_used_without_them(
    model: nn.Module, tmp_path: Path
) -> None:
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in model.state_dict().items()}
    tensors["blocks.0.ffn.net.2.scale_weight"] = torch.ones(1)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(LoraMismatch, match=r"quantised \(blocks.0.ffn.net.2.scale_weight\)"):
        read(model, tmp_path / "a.safetensors", allow_partial=True)
