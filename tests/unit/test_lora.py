"""LoRA files: what is read, what is refused, and that the base comes back to the last bit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine_support import lora_tensors, write_lora
from rushes.checkpoints.safetensors import fingerprint
from rushes.errors import (
    CheckpointFormat,
    CheckpointIncomplete,
    CheckpointMissing,
    LoraMismatch,
    LoraValue,
)
from rushes.wire.jobs import Checkpoint
from rushes_service.lora.changes import LowRank, Patch
from rushes_service.lora.merge import LoraMerger
from rushes_service.lora.reading import Lora, read_lora
from rushes_service.lora.reading.files import locate
from rushes_service.lora.targets import LoraTarget, NameTable, name_table
from rushes_service.models.wan.names import wan_names
from rushes_service.models.wan.tiny import transformer

Weights = dict[str, torch.Tensor]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return transformer()


def names_of(model: nn.Module) -> NameTable:
    return wan_names(model)


def read(model: nn.Module, path: Path, **options: str) -> Lora:
    return read_lora(path, names_of(model), LoraMerger(model).shapes, family="wan2.1-t2v", **options)


def copies(model: nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def is_base(model: nn.Module, base: Weights) -> bool:
    return all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())


def by_hand(
    base: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], strength: float
) -> dict[str, torch.Tensor]:
    """Weights with a musubi LoRA added in float64."""
    own = {"self_attn": "attn1", "cross_attn": "attn2", "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
    merged = {name: tensor.double() for name, tensor in base.items()}
    for key in (key for key in tensors if key.endswith(".lora_down.weight")):
        name = key.removesuffix(".lora_down.weight")
        block, layer = name.removeprefix("lora_unet_blocks_").split("_", 1)
        if layer.startswith("ffn"):
            module = {"ffn_0": "ffn.net.0.proj", "ffn_2": "ffn.net.2"}[layer]
        else:
            attention, part = layer.rsplit("_", 1)
            module = f"{own[attention]}.{own[part]}"
        down, up = tensors[key].double(), tensors[f"{name}.lora_up.weight"].double()
        alpha = tensors.get(f"{name}.alpha")
        scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
        merged[f"blocks.{block}.{module}.weight"] += strength * scale * (up @ down)
    return merged


@pytest.mark.parametrize(("alpha", "strength"), [(2.0, 1.0), (None, 0.7), (8.0, -1.5)])
def test_a_merge_is_the_delta_added_by_hand(model, tmp_path, alpha, strength):
    base = copies(model)
    tensors = lora_tensors(alpha=alpha)
    save_file(tensors, tmp_path / "a.safetensors")
    LoraMerger(model).merge([(read(model, tmp_path / "a.safetensors"), strength)])
    wanted = by_hand(base, tensors, strength)
    assert max((model.state_dict()[name] - wanted[name]).abs().max() for name in wanted) <= 1e-5
    assert not is_base(model, base)


@pytest.mark.parametrize("style", ["diffusers", "comfyui"])
def test_formats_that_hold_the_same_lora_merge_to_the_same_weights(model, tmp_path, style):
    merger = LoraMerger(model)
    merger.merge([(read(model, write_lora(tmp_path / "musubi.safetensors")), 1.0)])
    wanted = copies(model)
    lora = read(model, write_lora(tmp_path / "other.safetensors", style=style))
    merger.merge([(lora, 1.0)])
    assert is_base(model, wanted)
    assert lora.report.format == style


def test_the_report_counts_keys_modules_and_ranks(model, tmp_path):
    path = write_lora(tmp_path / "a.safetensors", rank=3)
    report = read(model, path).report
    assert (report.format, report.matched, report.unmatched, report.modules, report.ranks) == (
        "musubi",
        36,
        0,
        12,
        (3,),
    )
    assert report.sha256 == fingerprint(path)


def test_strength_zero_is_the_base_bit_for_bit(model, tmp_path):
    base = copies(model)
    merger = LoraMerger(model)
    lora = read(model, write_lora(tmp_path / "a.safetensors"))
    merger.merge([(lora, 0.0)])
    assert is_base(model, base)
    merger.merge([(lora, 1.0)])
    merger.merge([(lora, 0.0)])
    assert is_base(model, base)


def test_random_swaps_leave_the_base_bit_exact(model, tmp_path):
    base = copies(model)
    merger = LoraMerger(model)
    layers = [("self_attn.q", "ffn.0"), ("cross_attn.k",), ("ffn.0", "ffn.2"), ("self_attn.o", "cross_attn.v")]
    loras = [
        read(model, write_lora(tmp_path / f"{seed}.safetensors", seed=seed, rank=seed + 1, layers=layers[seed]))
        for seed in range(4)
    ]
    fresh = {}
    chance = random.Random(0)
    for _ in range(20):
        lora, strength = chance.choice([*loras, None]), chance.choice([0.0, 0.5, 1.0, -1.0])
        merger.merge([(lora, strength)] if lora else [])
        key = (lora.fingerprint, strength) if lora and strength else None
        state = fresh.setdefault(key, copies(model))
        assert is_base(model, state), "the same LoRA must give the same weights whatever came before"
    merger.merge([])
    assert is_base(model, base)


def test_merging_the_same_again_does_nothing(model, tmp_path):
    merger = LoraMerger(model)
    lora = read(model, write_lora(tmp_path / "a.safetensors"))
    assert merger.merge([(lora, 1.0)])
    versions = {name: tensor._version for name, tensor in model.state_dict().items()}
    assert not merger.merge([(lora, 1.0)])
    assert versions == {name: tensor._version for name, tensor in model.state_dict().items()}


def test_only_weights_of_the_lora_are_touched(model, tmp_path):
    base = copies(model)
    LoraMerger(model).merge([(read(model, write_lora(tmp_path / "a.safetensors", layers=("ffn.0",))), 1.0)])
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, base[name])}
    assert changed == {f"blocks.{block}.ffn.net.0.proj.weight" for block in range(2)}


def test_a_merge_that_fails_half_way_leaves_the_base(model, tmp_path):
    base = copies(model)
    merger = LoraMerger(model)
    good = read(model, write_lora(tmp_path / "a.safetensors"))
    merger.merge([(good, 1.0)])
    wrong = LowRank(torch.zeros(2, 7), torch.zeros(64, 2))
    broken = (*good.patches[:3], Patch("blocks.0.attn1.to_q.weight", wrong))
    with pytest.raises(LoraValue):
        merger.merge([(Lora("broken", broken, good.report), 1.0)])
    assert is_base(model, base)
    merger.merge([(good, 1.0)])
    assert not is_base(model, base)


def test_a_merge_in_bfloat16_keeps_dtype_and_base(model, tmp_path):
    model = model.to(torch.bfloat16)
    base = copies(model)
    merger = LoraMerger(model)
    merger.merge([(read(model, write_lora(tmp_path / "a.safetensors")), 1.0)])
    assert not is_base(model, base)
    assert model.state_dict().keys() == base.keys()
    assert all(tensor.dtype == base[name].dtype for name, tensor in model.state_dict().items())
    merger.restore()
    assert is_base(model, base)


def test_a_fused_module_of_a_file_is_split_over_the_modules_of_the_model(tmp_path):
    model = nn.ModuleDict({"to_q": nn.Linear(3, 4), "to_k": nn.Linear(3, 4)})
    fused = (LoraTarget("to_q", (0, 4)), LoraTarget("to_k", (4, 8)))
    down, up = torch.randn(2, 3), torch.randn(8, 2)
    save_file({"lora_unet_qk.lora_down.weight": down, "lora_unet_qk.lora_up.weight": up}, tmp_path / "a.safetensors")
    base = copies(model)
    merger = LoraMerger(model)
    lora = read_lora(tmp_path / "a.safetensors", NameTable({}, {"qk": fused}), merger.shapes, family="test")
    merger.merge([(lora, 1.0)])
    torch.testing.assert_close(model["to_k"].weight.data, base["to_k.weight"] + up[4:] @ down)
    torch.testing.assert_close(model["to_q"].weight.data, base["to_q.weight"] + up[:4] @ down)


def test_a_convolution_takes_a_lora_too(tmp_path):
    model = nn.ModuleDict({"conv": nn.Conv3d(4, 6, (1, 2, 2))})
    down, up = torch.randn(2, 4, 1, 2, 2), torch.randn(6, 2, 1, 1, 1)
    save_file({"conv.lora_down.weight": down, "conv.lora_up.weight": up}, tmp_path / "a.safetensors")
    base = model["conv"].weight.data.clone()
    merger = LoraMerger(model)
    lora = read_lora(tmp_path / "a.safetensors", name_table(model, str), merger.shapes, family="test")
    merger.merge([(lora, 2.0)])
    wanted = base + 2.0 * (up.flatten(1) @ down.flatten(1)).view_as(base)
    torch.testing.assert_close(model["conv"].weight.data, wanted)


def test_every_wan_module_that_musubi_trains_has_a_name(model):
    flat = names_of(model).flat
    wanted = [f"{attention}_{part}" for attention in ("self_attn", "cross_attn") for part in "qkvo"] + [
        "ffn_0",
        "ffn_2",
    ]
    assert all(f"blocks_1_{name}" in flat for name in wanted)
    assert {"text_embedding_0", "time_embedding_2", "time_projection_1", "head_head", "patch_embedding"} <= flat.keys()


FOREIGN = {
    "flux1": "lora_unet_double_blocks_0_img_mod_lin",
    "hunyuan-video": "lora_unet_double_blocks_0_img_mod_linear",
    "flux1 or flux2 or hunyuan-video": "lora_unet_double_blocks_0_img_attn_qkv",
    "framepack or qwen-image or krea2": "lora_unet_transformer_blocks_0_attn_to_q",
}


@pytest.mark.parametrize(("family", "module"), FOREIGN.items())
def test_another_familys_lora_is_refused_and_the_family_named(model, tmp_path, family, module):
    path = tmp_path / "foreign.safetensors"
    save_file({f"{module}.lora_down.weight": torch.zeros(2, 8), f"{module}.lora_up.weight": torch.zeros(8, 2)}, path)
    with pytest.raises(
        LoraMismatch, match=rf"2 of 2 keys match no module of wan2.1-t2v: {module}.*looks like {family}: 2 of 2 keys"
    ):
        read(model, path)


def test_one_key_too_many_is_refused_by_name(model, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({**lora_tensors(), "lora_unet_blocks_9_ffn_0.lora_up.weight": torch.zeros(4, 4)}, path)
    with pytest.raises(LoraMismatch, match=r"1 of 37 keys match no module .*lora_unet_blocks_9_ffn_0.lora_up.weight"):
        read(model, path)


def test_a_file_without_tensors_is_refused(model, tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(LoraMismatch, match="no tensors"):
        read(model, tmp_path / "empty.safetensors")


def test_a_lora_of_another_model_size_is_refused_with_both_shapes(model, tmp_path):
    tensors = lora_tensors()
    tensors["lora_unet_blocks_0_ffn_0.lora_down.weight"] = torch.zeros(4, 96)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(LoraValue, match=r"\[128, 64\] in the model \(blocks.0.ffn.net.0.proj\) but \[128, 96\]"):
        read(model, tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_numbers_are_refused(model, tmp_path, value):
    tensors = lora_tensors()
    tensors["lora_unet_blocks_1_ffn_2.lora_up.weight"][3, 1] = value
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(LoraValue, match=r"blocks_1_ffn_2 \(up\) holds NaN or infinity"):
        read(model, tmp_path / "a.safetensors")


def test_half_a_module_is_refused(model, tmp_path):
    tensors = lora_tensors()
    del tensors["lora_unet_blocks_0_ffn_0.lora_up.weight"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(LoraValue, match="blocks_0_ffn_0 has no up matrix"):
        read(model, tmp_path / "a.safetensors")


def test_halves_of_different_rank_are_refused(model, tmp_path):
    tensors = lora_tensors()
    tensors["lora_unet_blocks_0_ffn_0.lora_up.weight"] = torch.zeros(128, 5)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(LoraValue, match="rank 4 in its down matrix but 5"):
        read(model, tmp_path / "a.safetensors")


def test_a_file_that_was_overwritten_since_submission_is_refused(model, tmp_path):
    path = write_lora(tmp_path / "a.safetensors", seed=1)
    submitted = fingerprint(path)
    write_lora(path, seed=2)
    with pytest.raises(CheckpointMissing, match="overwritten"):
        read(model, path, expected=submitted)


def test_the_trainers_own_file_serves_when_the_snapshot_is_gone(tmp_path):
    path = write_lora(tmp_path / "a.safetensors")
    checkpoint = Checkpoint(path=str(tmp_path / "gone.safetensors"), source=str(path), fingerprint="x")
    assert locate(checkpoint) == path


def test_missing_truncated_and_pickled_files_are_told_apart(tmp_path):
    def checkpoint(name: str) -> Checkpoint:
        return Checkpoint(path=str(tmp_path / name), fingerprint="x")

    whole = write_lora(tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-10])
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickled")
    with pytest.raises(CheckpointMissing, match="gone"):
        locate(checkpoint("gone"))
    with pytest.raises(CheckpointIncomplete, match="cut short"):
        locate(checkpoint("cut"))
    with pytest.raises(CheckpointFormat, match="pickle"):
        locate(checkpoint("pickled"))


def test_a_header_that_begins_like_a_pickle_is_none(model, tmp_path):
    path = tmp_path / "a.safetensors"
    for padding in range(0, 1024, 8):
        save_file(lora_tensors(layers=("ffn.0",)), path, metadata={"padding": "x" * padding})
        if path.read_bytes().startswith(b"\x80\x04"):  # a header of 1152 bytes
            break
    else:
        pytest.fail("no header had the length this test is about")
    assert read(model, path).report.modules == 2
