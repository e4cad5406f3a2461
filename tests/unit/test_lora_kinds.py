"""Adapters with a configuration, DoRA, whole checkpoints, several at once; judged by peft, lycoris and diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris.modules.locon import LoConModule
from peft import LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from engine_support import lora_tensors, write_lora
from lora_support import RANK
from rushes.errors import CheckpointFormat, LoraMismatch, LoraValue
from rushes_service.lora.changes import Decomposed, Difference, LowRank, Patch, Replacement
from rushes_service.lora.merge import LoraMerger
from rushes_service.lora.reading import Lora, LoraReport, read_lora
from rushes_service.lora.targets import renamed
from rushes_service.lora.unmerged import output_hook
from rushes_service.models.wan.names import ORIGINAL_NAMES, wan_names
from rushes_service.models.wan.tiny import transformer
from rushes_service.runtime.float8 import stored_in_float8

TARGETS = ["to_q", "to_v", "to_out.0", "ffn.net.2"]
TOLERANCE = 1e-5


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return transformer()


def read(model: nn.Module, path: Path, **options: Any) -> Lora:
    return read_lora(path, wan_names(model), LoraMerger(model).shapes, family="wan2.1-t2v", **options)


def copies(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def furthest(model: nn.Module, wanted: dict[str, torch.Tensor]) -> float:
    """Largest difference of any weight."""
    state = model.state_dict()
    return max((state[name] - tensor).abs().max().item() for name, tensor in wanted.items())


def peft_twin(config: Any, directory: Path) -> dict[str, torch.Tensor]:
    """Save an adapter with random weights as peft does; returns the weights that peft itself merges."""
    torch.manual_seed(0)
    base = transformer()
    tuned = get_peft_model(base, config)
    torch.manual_seed(1)
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            factor = 1 + 0.1 * torch.rand_like(parameter) if "magnitude" in name else torch.randn_like(parameter) * 0.2
            parameter.data = parameter.data * factor if "magnitude" in name else factor
    tuned.save_pretrained(directory)
    return {name: tensor.clone() for name, tensor in tuned.merge_and_unload().state_dict().items()}


CONFIGS = {
    "LoRA": LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS),
    "rank-stabilised": LoraConfig(r=4, lora_alpha=7, use_rslora=True, target_modules=TARGETS),
    "patterns": LoraConfig(
        r=3, lora_alpha=7, alpha_pattern={"attn1.to_q": 2}, rank_pattern={"to_v": 5}, target_modules=TARGETS
    ),
    "with bias": LoraConfig(r=3, lora_alpha=7, lora_bias=True, target_modules=TARGETS),
    "DoRA": LoraConfig(r=3, lora_alpha=7, use_dora=True, target_modules=TARGETS),
    "biases of all layers": LoraConfig(r=3, lora_alpha=7, bias="all", target_modules=TARGETS),
    "DoRA on a convolution": LoraConfig(r=3, lora_alpha=7, use_dora=True, target_modules=["patch_embedding"]),
    "LoKr, whole, patterns": LoKrConfig(
        r=64, alpha=7, rank_pattern={"to_v": 40}, alpha_pattern={"attn1.to_q": 2}, target_modules=TARGETS
    ),
    "LoKr": LoKrConfig(r=3, alpha=7, target_modules=TARGETS),
    "LoKr, both low-rank": LoKrConfig(r=2, alpha=7, decompose_both=True, target_modules=TARGETS),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_peft_directory_is_merged_as_peft_merges_it(model: nn.Module, tmp_path: Path, kind: str) -> None:
    wanted = peft_twin(CONFIGS[kind], tmp_path / "adapter")
    base = copies(model)
    merger = LoraMerger(model)
    lora = read(model, tmp_path / "adapter")
    merger.merge([(lora, 1.0)])
    assert furthest(model, base) > 1e-3
    assert furthest(model, wanted) <= TOLERANCE
    assert lora.report.format == "peft"
    merger.restore()
    assert furthest(model, base) == 0


def test_modules_that_peft_trained_as_a_whole_are_taken_whole(model: nn.Module, tmp_path: Path) -> None:
    config = LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS, modules_to_save=["proj_out"])
    wanted = peft_twin(config, tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    (key,) = (key for key in tensors if key.endswith("proj_out.weight"))
    tensors[key] = wanted["proj_out.weight"] = torch.randn_like(tensors[key])
    save_file(tensors, weights)
    LoraMerger(model).merge([(read(model, tmp_path / "adapter"), 1.0)])
    assert furthest(model, wanted) <= TOLERANCE


def test_alpha_in_diffusers_metadata_counts(model: nn.Module, tmp_path: Path) -> None:
    tensors = lora_tensors(style="diffusers", alpha=None)
    told = {"transformer.r": 4, "transformer.lora_alpha": 2, "transformer.target_modules": []}
    save_file(tensors, tmp_path / "told.safetensors", metadata={"lora_adapter_metadata": json.dumps(told)})
    merger = LoraMerger(model)
    merger.merge([(read(model, write_lora(tmp_path / "same.safetensors", alpha=2.0)), 1.0)])
    wanted = copies(model)
    merger.merge([(read(model, tmp_path / "told.safetensors"), 1.0)])
    assert furthest(model, wanted) == 0


def test_an_adapter_whose_base_was_altered_is_refused(model: nn.Module, tmp_path: Path) -> None:
    peft_twin(CONFIGS["LoRA"], tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "init_lora_weights": "pissa_niter_4"}))
    with pytest.raises(LoraMismatch, match="pissa_niter_4, which also alters the base model"):
        read(model, tmp_path / "adapter")


def test_a_pickled_adapter_is_refused(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    torch.save({}, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(CheckpointFormat, match="safe_serialization=True"):
        read(model, tmp_path / "adapter")


@pytest.mark.parametrize("over_rows", [True, False])
def test_dora_is_what_lycoris_says(model: nn.Module, tmp_path: Path, over_rows: bool) -> None:
    base = copies(model)
    linear = model.get_submodule("blocks.0.ffn.net.2")
    made = LoConModule(
        "m", linear, lora_dim=RANK, alpha=2.0, weight_decompose=True, wd_on_out=over_rows, bypass_mode=False
    )
    for parameter in (made.lora_down.weight, made.lora_up.weight):
        parameter.data = torch.randn_like(parameter) * 0.2
    made.dora_scale.data *= 1 + 0.2 * torch.rand_like(made.dora_scale)
    state = {f"lora_unet_blocks_0_ffn_2.{k}": v.clone() for k, v in made.state_dict().items() if "org" not in k}
    save_file(state, tmp_path / "a.safetensors")
    wanted = made.double().get_merged_weight()[0].detach().clone()
    linear.float()
    model.load_state_dict(base)
    merger = LoraMerger(model)
    lora = read(model, tmp_path / "a.safetensors")
    merger.merge([(lora, 1.0)])
    assert lora.report.kinds == ("DoRA",)
    assert (linear.weight - wanted).abs().max() <= TOLERANCE
    merger.merge([(lora, 0.5)])
    half = base["blocks.0.ffn.net.2.weight"].double().lerp(wanted, 0.5)
    assert (linear.weight - half).abs().max() <= TOLERANCE


def test_differences_reach_norms_biases_and_modulation(model: nn.Module, tmp_path: Path) -> None:
    base = copies(model)
    names = {
        "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
        "blocks.0.ffn.0.diff_b": "blocks.0.ffn.net.0.proj.bias",
        "head.head.diff": "proj_out.weight",
        "blocks.1.diff_m": "blocks.1.scale_shift_table",
        "blocks.0.modulation.diff": "blocks.0.scale_shift_table",
        "head.diff_m": "scale_shift_table",
    }
    tensors = {f"diffusion_model.{key}": torch.randn_like(base[name]) for key, name in names.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    LoraMerger(model).merge([(read(model, tmp_path / "a.safetensors"), 2.0)])
    wanted = {**base, **{name: base[name] + 2 * tensors[f"diffusion_model.{key}"] for key, name in names.items()}}
    assert furthest(model, wanted) <= 1e-6


def tuned(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights of a full fine-tune."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in copies(model).items()
    }


def original(name: str) -> str:
    """A parameter's name in Wan's own release."""
    module, _, leaf = name.rpartition(".")
    return f"{renamed(module, ORIGINAL_NAMES)}.{leaf}" if leaf in ("weight", "bias") else renamed(name, ORIGINAL_NAMES)


@pytest.mark.parametrize("style", ["diffusers", "original", "ComfyUI"])
def test_a_whole_transformer_is_a_checkpoint(model: nn.Module, tmp_path: Path, style: str) -> None:
    base, wanted = copies(model), tuned(model)
    names = {name: name if style == "diffusers" else original(name) for name in wanted}
    prefix = "model.diffusion_model." if style == "ComfyUI" else ""
    save_file({f"{prefix}{names[name]}": tensor for name, tensor in wanted.items()}, tmp_path / "a.safetensors")
    merger = LoraMerger(model)
    lora = read(model, tmp_path / "a.safetensors")
    merger.merge([(lora, 1.0)])
    assert furthest(model, wanted) == 0
    assert lora.report.format == ("diffusers checkpoint" if style == "diffusers" else "original checkpoint")
    merger.merge([(lora, 0.25)])
    between = {name: base[name].lerp(tensor, 0.25) for name, tensor in wanted.items()}
    assert furthest(model, between) <= 1e-6
    merger.restore()
    assert furthest(model, base) == 0


def test_one_shard_of_a_transformer_is_refused(model: nn.Module, tmp_path: Path) -> None:
    weights = tuned(model)
    del weights["proj_out.bias"]
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(LoraMismatch, match=r"1 weights of wan2.1-t2v are not in it: proj_out.bias; is it one part"):
        read(model, tmp_path / "a.safetensors")


def test_a_whole_transformer_of_another_size_is_refused(model: nn.Module, tmp_path: Path) -> None:
    weights = tuned(model)
    weights["proj_out.weight"] = torch.zeros(64, 32)
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(LoraValue, match=r"proj_out.weight is \[64, 32\].*\[64, 64\] in the model.*another size"):
        read(model, tmp_path / "a.safetensors")


def test_several_loras_add_up_at_their_own_strengths(model: nn.Module, tmp_path: Path) -> None:
    base = copies(model)
    first = read(model, write_lora(tmp_path / "1.safetensors", seed=1))
    second = read(model, write_lora(tmp_path / "2.safetensors", seed=2, layers=("ffn.0", "self_attn.q")))
    merger = LoraMerger(model)
    deltas = []
    for lora, strength in ((first, 0.5), (second, -2.0)):
        merger.merge([(lora, strength)])
        deltas.append({name: tensor.double() - base[name] for name, tensor in model.state_dict().items()})
    merger.merge([(first, 0.5), (second, -2.0)])
    wanted = {name: base[name] + deltas[0][name] + deltas[1][name] for name in base}
    assert furthest(model, wanted) <= 1e-6
    merger.merge([(second, -2.0)])
    assert furthest(model, {name: base[name] + deltas[1][name] for name in base}) <= 1e-6
    merger.merge([])
    assert furthest(model, base) == 0


def test_a_lora_goes_on_top_of_a_whole_checkpoint(model: nn.Module, tmp_path: Path) -> None:
    base, weights = copies(model), tuned(model)
    save_file(weights, tmp_path / "whole.safetensors")
    lora = read(model, write_lora(tmp_path / "lora.safetensors"))
    merger = LoraMerger(model)
    merger.merge([(lora, 1.0)])
    delta = {name: tensor - base[name] for name, tensor in model.state_dict().items()}
    merger.merge([(read(model, tmp_path / "whole.safetensors"), 1.0), (lora, 1.0)])
    assert furthest(model, {name: weights[name] + delta[name] for name in base}) <= 1e-6


def test_a_strength_that_changes_touches_no_other_lora(model: nn.Module, tmp_path: Path) -> None:
    first = read(model, write_lora(tmp_path / "1.safetensors", layers=("ffn.0",)))
    second = read(model, write_lora(tmp_path / "2.safetensors", layers=("self_attn.q",)))
    merger = LoraMerger(model)
    merger.merge([(first, 1.0), (second, 1.0)])
    before = copies(model)
    versions = {name: tensor._version for name, tensor in model.state_dict().items()}
    merger.merge([(first, 1.0), (second, 0.5)])
    written = {name for name, tensor in model.state_dict().items() if tensor._version != versions[name]}
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert written == changed == {f"blocks.{block}.attn1.to_q.weight" for block in range(2)}


def test_dora_measures_weights_in_float8_with_their_scales():
    layer: Any = nn.Linear(64, 8, bias=False)
    stored_in_float8(layer, scaled=True)
    weight = layer.expanded(torch.float32)
    nothing = LowRank(torch.zeros(1, 64), torch.zeros(8, 1))
    twice_as_long = Decomposed(nothing, 2 * weight.norm(dim=1, keepdim=True))
    inputs = torch.eye(64)
    hook = output_hook("layer.weight", layer, [(Patch("layer.weight", twice_as_long), 1.0)])
    torch.testing.assert_close(hook(layer, (inputs,), layer(inputs)), 2 * layer(inputs))
    torch.testing.assert_close(layer(inputs), weight.T)


def test_changes_beside_a_weight_build_on_each_other_as_when_merged():
    torch.manual_seed(0)
    stored: Any = nn.ModuleDict({"l": nn.Linear(64, 8, bias=False)})
    stored_in_float8(stored["l"], scaled=True)
    plain: Any = nn.ModuleDict({"l": nn.Linear(64, 8, bias=False)})
    plain["l"].weight.data = stored["l"].expanded(torch.float32)
    whole = Patch("l.weight", Replacement(torch.randn(8, 64)))
    dora = Patch("l.weight", Decomposed(LowRank(torch.randn(2, 64), torch.randn(8, 2)), torch.ones(8, 1)))
    report = LoraReport("a", "", "", (), 0, 0, 0, ())
    loras = [(Lora("1", (whole,), report), 1.0), (Lora("2", (dora,), report), 0.5)]
    for model in (stored, plain):
        LoraMerger(model).merge(loras)
    inputs = torch.randn(3, 64)
    torch.testing.assert_close(stored["l"](inputs), plain["l"](inputs), atol=TOLERANCE, rtol=TOLERANCE)


def test_a_bias_that_cannot_be_written_is_changed_beside_it():
    torch.manual_seed(0)
    stored, plain = nn.ModuleDict({"l": nn.Linear(4, 3)}), nn.ModuleDict({"l": nn.Linear(4, 3)})
    plain.load_state_dict(stored.state_dict())
    linear: Any = stored["l"]
    linear.bias.data = linear.bias.data.to(torch.float8_e4m3fn)
    linear.forward = lambda x: x @ linear.weight.T + linear.bias.float()
    plain["l"].bias.data = linear.bias.data.float()
    lora = Lora("1", (Patch("l.bias", Difference(torch.randn(3, 1))),), LoraReport("a", "", "", (), 0, 0, 0, ()))
    inputs = torch.randn(2, 4)
    before = stored["l"](inputs)
    mergers = LoraMerger(stored), LoraMerger(plain)
    for merger in mergers:
        merger.merge([(lora, 0.5)])
    assert mergers[0].mode.startswith("unmerged")
    torch.testing.assert_close(stored["l"](inputs), plain["l"](inputs))
    mergers[0].restore()
    assert torch.equal(stored["l"](inputs), before)
