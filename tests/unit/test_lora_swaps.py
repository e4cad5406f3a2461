"""What swaps leave: the base to the last bit, no memory, no recompiled graphs; and weights that are not written."""

from __future__ import annotations

import gc
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine_support import lora_tensors, write_lora
from lora_support import ORIGINAL, FileModule, linears, write
from rushes.checkpoints.safetensors import fingerprint
from rushes.errors import CheckpointError, LoraError, LoraValue
from rushes_service.engine.offload import BlockOffloader
from rushes_service.lora.manager import LoraManager, RequestedLora
from rushes_service.lora.merge import LoraMerger
from rushes_service.lora.reading import read_lora
from rushes_service.lora.targets import name_table
from rushes_service.models.wan.names import wan_names
from rushes_service.models.wan.tiny import transformer

SWAPS = 100


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return transformer()


def copies(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def is_base(model: nn.Module, base: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())


def rack_of(model: nn.Module) -> LoraManager:
    return LoraManager(model, lambda: wan_names(model), "wan2.1-t2v")


def wanted(path: Path, strength: float = 1.0) -> RequestedLora:
    return RequestedLora(path, fingerprint(path), strength, extra=False)


def every_format(model: nn.Module, directory: Path) -> list[Path]:
    """A file in each format."""
    modules = linears(model, wan_names(model), original=True)
    paths = []
    for seed, style in enumerate(ORIGINAL):
        adapter = ORIGINAL[style](modules, torch.Generator().manual_seed(seed))
        paths.append(write(adapter, directory / f"{seed}.safetensors"))
    return paths


def bad_files(directory: Path) -> list[Path]:
    """Files that fail, each in its own way."""
    good = write_lora(directory / "good.safetensors").read_bytes()
    cut = directory / "cut.safetensors"
    cut.write_bytes(good[:-8])
    foreign = directory / "foreign.safetensors"
    save_file({"lora_unet_double_blocks_0_img_mod_lin.lora_down.weight": torch.zeros(2, 8)}, foreign)
    diverged = lora_tensors()
    diverged["lora_unet_blocks_1_ffn_2.lora_up.weight"][0, 0] = float("nan")
    save_file(diverged, directory / "diverged.safetensors")
    wide = lora_tensors()
    wide["lora_unet_blocks_0_ffn_0.lora_down.weight"] = torch.zeros(4, 96)
    save_file(wide, directory / "wide.safetensors")
    return [cut, foreign, directory / "diverged.safetensors", directory / "wide.safetensors"]


def living_bytes() -> int:
    """Memory of all tensors that are alive."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, nn.Parameter):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_hundred_random_swaps_leave_the_base_and_no_memory(
    model: nn.Module, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = model.to(dtype)
    base = copies(model)
    rack = rack_of(model)
    good, bad = every_format(model, tmp_path), bad_files(tmp_path)
    chance = random.Random(0)
    seen: dict[tuple[tuple[str, float], ...], dict[str, torch.Tensor]] = {}
    for path in good:
        rack.apply([wanted(path)])
    rack.apply([])
    before = living_bytes()
    for _ in range(SWAPS):
        chosen = [
            wanted(path, chance.choice([0.0, 0.5, 1.0, -2.0])) for path in chance.sample(good, chance.randrange(4))
        ]
        if chance.random() < 0.2:
            with pytest.raises((LoraError, CheckpointError)):
                rack.apply([*chosen, wanted(chance.choice(bad))])
            continue
        rack.apply(chosen)
        key = tuple((file.fingerprint, file.strength) for file in chosen if file.strength)
        if len(key) < 2:
            state = seen.setdefault(key, copies(model))
            assert is_base(model, state), "the same files must give the same weights, whatever came before"
    rack.apply([])
    assert is_base(model, base)
    seen.clear()
    state = {}
    assert living_bytes() <= before + 1024


def test_the_next_good_file_is_right_after_each_bad_one(model: nn.Module, tmp_path: Path) -> None:
    rack = rack_of(model)
    path = write_lora(tmp_path / "a.safetensors", seed=7)
    rack.apply([wanted(path)])
    state = copies(model)
    for bad in bad_files(tmp_path):
        with pytest.raises((LoraError, CheckpointError)):
            rack.apply([wanted(bad)])
        rack.apply([wanted(path)])
        assert is_base(model, state)


def test_a_new_strength_reads_nothing(model: nn.Module, tmp_path: Path) -> None:
    rack = rack_of(model)
    path = write_lora(tmp_path / "a.safetensors")
    rack.apply([first := wanted(path)])
    path.unlink()
    assert rack.apply([RequestedLora(path, first.fingerprint, 0.5, extra=False)])
    assert not rack.apply([RequestedLora(path, first.fingerprint, 0.5, extra=False)])


def test_swaps_do_not_recompile_compiled_blocks(model: nn.Module, tmp_path: Path) -> None:
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> object:
        compiled.append(graph)
        return graph.forward

    for block in model.blocks:
        block.compile(backend=backend)
    rack = rack_of(model)
    inputs = torch.randn(1, 16, 1, 4, 4), torch.tensor([500]), torch.randn(1, 512, 32)
    with torch.no_grad():
        plain = model(*inputs).sample
        graphs = len(compiled)
        answers = []
        for seed in range(3):
            rack.apply([wanted(write_lora(tmp_path / f"{seed}.safetensors", seed=seed))])
            answers.append(model(*inputs).sample)
        rack.apply([])
        assert torch.equal(model(*inputs).sample, plain)
    assert graphs > 0
    assert len(compiled) == graphs
    assert not torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[1], plain)


def test_a_module_wrapped_by_compile_takes_a_lora_under_its_own_name(model: nn.Module, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "a.safetensors")
    rack_of(model).apply([wanted(lora)])
    merged = copies(model)
    torch.manual_seed(0)
    other = transformer()
    other.blocks[0] = torch.compile(other.blocks[0], backend="eager")
    rack_of(other).apply([wanted(lora)])
    assert torch.equal(other.blocks[0].attn1.to_q.weight, merged["blocks.0.attn1.to_q.weight"])


def quantised(linear: nn.Linear) -> None:
    """Store a weight in 8 bits and widen it in each forward, as layer-wise casting does."""
    linear.weight.data = linear.weight.data.to(torch.float8_e4m3fn)
    linear.forward = lambda x: nn.functional.linear(x, linear.weight.to(x.dtype), linear.bias)  # type: ignore[method-assign]


@pytest.mark.parametrize("style", ["musubi", "LoHa", "LoKr"])
def test_quantised_weights_take_the_lora_beside_them(tmp_path: Path, style: str) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"0": nn.ModuleDict({"0": nn.Linear(16, 24)})}).requires_grad_(False)
    linear = model["0"]["0"]
    quantised(linear)
    names = name_table(model, str)
    merger = LoraMerger(model)
    adapter = ORIGINAL[style]([FileModule("0.0", (24, 16), names.dotted["0.0"])], torch.Generator().manual_seed(0))
    lora = read_lora(write(adapter, tmp_path / "a.safetensors"), names, merger.shapes, family="test")
    inputs = torch.randn(2, 5, 16)
    plain = linear(inputs)
    merger.merge([(lora, 0.5)])
    torch.testing.assert_close(linear(inputs), plain + 0.5 * inputs @ adapter.deltas["0.0"].float().T)
    assert merger.mode == "unmerged (float8_e4m3fn weights would round the LoRA away)"
    merger.merge([])
    assert torch.equal(linear(inputs), plain)
    assert merger.mode == "none"


def test_what_only_a_writable_weight_can_take_is_refused(tmp_path: Path) -> None:
    model = nn.ModuleDict({"norm": nn.LayerNorm(8)}).requires_grad_(False)
    model["norm"].weight.data = model["norm"].weight.data.to(torch.float8_e4m3fn)
    save_file({"norm.diff": torch.ones(8)}, tmp_path / "a.safetensors")
    merger = LoraMerger(model)
    lora = read_lora(tmp_path / "a.safetensors", name_table(model, str), merger.shapes, family="test")
    with pytest.raises(LoraValue, match=r"norm.weight cannot be written \(LayerNorm\)"):
        merger.merge([(lora, 1.0)])
    assert merger.mode == "none"


def test_a_file_that_is_there_twice_acts_twice(model: nn.Module, tmp_path: Path) -> None:
    rack = rack_of(model)
    once = wanted(write_lora(tmp_path / "a.safetensors"), 0.5)
    rack.apply([once, once])
    twice = copies(model)
    rack.apply([once])
    single = copies(model)
    rack.apply([wanted(once.place, 1.0)])
    assert max((copies(model)[name] - tensor).abs().max() for name, tensor in twice.items()) <= 1e-6
    rack.apply([once])
    rack.apply([once, once])
    assert is_base(model, twice)
    rack.apply([once])
    assert is_base(model, single)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -1e39])
def test_a_strength_that_is_no_number_of_float32_is_refused(model: nn.Module, tmp_path: Path, strength: float) -> None:
    rack, base = rack_of(model), copies(model)
    with pytest.raises(LoraValue, match=r"strength of .* cannot be merged"):
        rack.apply([wanted(write_lora(tmp_path / "a.safetensors"), strength)])
    assert is_base(model, base)


def test_a_whole_checkpoint_goes_into_an_offloaded_model(model: nn.Module, tmp_path: Path) -> None:
    base = copies(model)
    tuned = {name: tensor + 0.1 for name, tensor in base.items()}
    save_file(tuned, tmp_path / "a.safetensors")
    BlockOffloader(model, torch.device("cpu"))
    rack = rack_of(model)
    rack.apply([wanted(tmp_path / "a.safetensors")])
    assert is_base(model, tuned)
    rack.apply([])
    assert is_base(model, base)
