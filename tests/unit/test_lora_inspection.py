"""What `rushes inspect` says about files of every format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine_support import lora_tensors, write_lora
from lora_support import ALPHA, FORMATS, ORIGINAL, RANK, linears, write, write_peft
from rushes.cli.main import main
from rushes.errors import CheckpointFormat, CheckpointIncomplete
from rushes_service.inspection.report import bar, inspect_file, lines
from rushes_service.lora.reading.families import guess_family
from rushes_service.models.wan.names import wan_names
from rushes_service.models.wan.tiny import transformer


@pytest.mark.parametrize("style", FORMATS)
def test_the_norm_per_block_is_that_of_the_delta(tmp_path: Path, style: str) -> None:
    model = transformer()
    modules = linears(model, wan_names(model), original=style in ORIGINAL)
    adapter = FORMATS[style](modules, torch.Generator().manual_seed(0))
    found = inspect_file(write(adapter, tmp_path / "a.safetensors"))
    wanted = sum(delta.square().sum().item() for delta in adapter.deltas.values()) ** 0.5
    assert found.norm == pytest.approx(wanted, rel=1e-4)
    assert found.family is not None
    assert found.family.startswith("wan: ")
    assert found.modules == len(adapter.deltas)


def test_rank_alpha_kind_and_metadata_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(lora_tensors(rank=3, alpha=6.0), path, metadata={"ss_learning_rate": "1e-4", "ss_epoch": "2"})
    found = inspect_file(path)
    assert (found.format, found.kinds) == ("musubi", {"LoRA": 12})
    assert (found.ranks, found.alphas) == ({"3": 12}, {"6": 12})
    assert list(found.blocks) == ["block 0", "block 1"]
    text = "\n".join(lines(found))
    assert "ss_learning_rate" in text
    assert "█" in text


def test_a_peft_directory_takes_alpha_from_its_configuration(tmp_path: Path) -> None:
    model = transformer()
    adapter = FORMATS["diffusers"](linears(model, wan_names(model), original=False), torch.Generator().manual_seed(0))
    plain = inspect_file(write(adapter, tmp_path / "a.safetensors"))
    found = inspect_file(write_peft(adapter, tmp_path / "adapter", lora_alpha=ALPHA))
    assert found.format == "peft"
    assert found.norm == pytest.approx(plain.norm * ALPHA / RANK, rel=1e-4)


def test_half_precision_is_read(tmp_path: Path) -> None:
    tensors = lora_tensors()
    save_file(tensors, tmp_path / "a.safetensors")
    whole = inspect_file(tmp_path / "a.safetensors")
    for dtype in (torch.bfloat16, torch.float16):
        save_file({key: tensor.to(dtype) for key, tensor in tensors.items()}, tmp_path / "b.safetensors")
        assert inspect_file(tmp_path / "b.safetensors").norm == pytest.approx(whole.norm, rel=1e-2)


def test_broken_numbers_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = lora_tensors()
    tensors["lora_unet_blocks_1_ffn_2.lora_up.weight"][0, 0] = float("inf")
    save_file(tensors, tmp_path / "a.safetensors")
    assert main(["inspect", str(tmp_path / "a.safetensors")]) == 1
    assert "BROKEN   lora_unet_blocks_1_ffn_2.lora_up.weight" in capsys.readouterr().out


MISFITS = {
    "ranks differ": {"lora_down.weight": (4, 8), "lora_up.weight": (8, 3)},
    "half is missing": {"lora_up.weight": (8, 4)},
    "empty": {"lora_down.weight": (0, 8), "lora_up.weight": (8, 0)},
    "LoHa apart": {"hada_w1_a": (8, 4), "hada_w1_b": (4, 8), "hada_w2_a": (8, 4), "hada_w2_b": (4, 6)},
    "half a LoKr": {"lokr_w1": (2, 2)},
}


@pytest.mark.parametrize("kind", MISFITS)
def test_factors_that_do_not_fit_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    tensors = {f"lora_unet_blocks_0_ffn_0.{part}": torch.ones(shape) for part, shape in MISFITS[kind].items()}
    save_file(tensors, tmp_path / "a.safetensors")
    assert main(["inspect", str(tmp_path / "a.safetensors")]) == 1
    assert "BROKEN   blocks_0_ffn_0 has " in capsys.readouterr().out


@pytest.mark.parametrize("alpha", [torch.zeros(0), torch.tensor(float("nan")), torch.tensor([2.0])])
def test_an_odd_alpha_is_no_trace(tmp_path: Path, alpha: torch.Tensor) -> None:
    save_file({**lora_tensors(), "lora_unet_blocks_0_ffn_0.alpha": alpha}, tmp_path / "a.safetensors")
    assert "\n".join(lines(inspect_file(tmp_path / "a.safetensors")))


def test_bytes_that_do_not_fill_a_shape_are_an_error(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes().replace(b'"shape":[4,64]', b'"shape":[4,63]', 1))
    with pytest.raises(CheckpointFormat, match=r"cannot be read .*the file is damaged"):
        inspect_file(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    bits = torch.arange(256, dtype=torch.uint8).view(dtype)
    finite = torch.where(bits.float().isfinite(), bits.float(), torch.zeros(256)).to(dtype)
    save_file({"blocks.0.ffn.diff": finite, "blocks.1.ffn.diff": bits}, tmp_path / "a.safetensors")
    found = inspect_file(tmp_path / "a.safetensors")
    assert found.norm == pytest.approx(finite.double().norm().item(), rel=1e-6)
    assert found.non_finite == ["blocks.1.ffn.diff"]


@pytest.mark.parametrize("packed", [False, True])
def test_the_configuration_counts_as_when_merging(tmp_path: Path, packed: bool) -> None:
    model = transformer()
    adapter = FORMATS["diffusers"](linears(model, wan_names(model), original=False), torch.Generator().manual_seed(0))
    config = {"lora_alpha": 7, "use_rslora": True, "alpha_pattern": {"ffn.net.2": 2}}
    place = write_peft(adapter, tmp_path / "adapter", **config)
    if packed:
        tensors = load_file(place / "adapter_model.safetensors")
        place = tmp_path / "packed.safetensors"
        save_file(tensors, place, metadata={"adapter_config": json.dumps(config)})
    deltas = {name: delta * (2 if name.endswith("ffn.net.2") else 7) for name, delta in adapter.deltas.items()}
    wanted = sum(delta.square().sum().item() for delta in deltas.values()) ** 0.5 / RANK**0.5
    found = inspect_file(place)
    assert found.norm == pytest.approx(wanted, rel=1e-4)
    assert set(found.alphas) == {"7", "2"}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"lora_alpha": "x"}', '{"alpha_pattern": {"(": 1}}', '{"rank_pattern": 3}']
)
def test_a_configuration_that_is_none_is_an_error(tmp_path: Path, text: str) -> None:
    model = transformer()
    adapter = FORMATS["diffusers"](linears(model, wan_names(model), original=False), torch.Generator().manual_seed(0))
    place = write_peft(adapter, tmp_path / "adapter")
    (place / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointFormat, match=r"adapter_config.json"):
        inspect_file(place)


def test_names_are_held_against_a_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_lora(tmp_path / "a.safetensors")
    assert main(["inspect", str(path), "--architecture", "wan2.1-t2v", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["matched"] == 12
    assert main(["inspect", str(path), "--architecture", "flux1-kontext", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["unmatched"]) == 12
    assert main(["inspect", str(path), "--architecture", "wan9"]) == 1
    assert "unknown architecture 'wan9'; known: " in capsys.readouterr().err


def test_modulation_has_a_place_in_wan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({**lora_tensors(), "diffusion_model.blocks.7.diff_m": torch.ones(1, 6, 64)}, tmp_path / "a.safetensors")
    assert main(["inspect", str(tmp_path / "a.safetensors"), "--architecture", "wan2.1-t2v"]) == 0
    assert main(["inspect", str(tmp_path / "a.safetensors"), "--architecture", "flux1-kontext"]) == 1
    assert "blocks.7" in capsys.readouterr().out


def test_a_truncated_file_is_an_error_and_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_lora(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointIncomplete):
        inspect_file(path)
    assert main(["inspect", str(path)]) == 1
    assert "cut short" in capsys.readouterr().err


def test_a_path_below_the_home_of_nobody_is_an_error_and_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "~nobody-of-this-name/x.safetensors"]) == 1
    assert "there is no such checkpoint file" in capsys.readouterr().err


def test_bars_have_eighths() -> None:
    assert bar(1.0) == "█" * 40
    assert bar(0.0) == ""
    assert bar(1 / 80) == "▌"


KEYS = {
    "flux1": ["lora_unet_double_blocks_18_img_attn_qkv", "lora_unet_single_blocks_37_linear1"],
    "hunyuan-video": ["lora_unet_double_blocks_19_img_attn_qkv", "lora_unet_single_blocks_39_linear1"],
    "flux1 or flux2 or hunyuan-video": ["lora_unet_double_blocks_3_img_attn_qkv"],
    "flux2": ["lora_unet_double_stream_modulation_img_lin", "transformer.transformer_blocks.0.ff.linear_in"],
    "z-image": ["lora_unet_layers_0_attention_to_q", "diffusion_model.noise_refiner.0.feed_forward.w1"],
    "wan": ["transformer.blocks.0.attn1.to_q"],
    "framepack": ["lora_unet_single_transformer_blocks_0_proj_mlp"],
    "ltx-video or ltx-2 or cogvideox": ["transformer.transformer_blocks.0.attn1.to_q"],
    "stable-diffusion": ["lora_unet_down_blocks_0_attentions_0_proj_in"],
    "krea2": [
        "lora_unet_blocks_27_attn_wq",
        "diffusion_model.txtfusion.projector",
        "transformer.transformer_blocks.27.attn.to_q",
    ],
    "qwen-image": ["transformer.transformer_blocks.0.img_mlp.net.2"],
    "kandinsky5": [
        "lora_unet_visual_transformer_blocks_0_self_attention_to_query",
        "diffusion_model.text_transformer_blocks.1.feed_forward.in_layer",
    ],
}


@pytest.mark.parametrize(("family", "modules"), KEYS.items())
def test_families_are_told_apart_by_names_and_depth(family: str, modules: list[str]) -> None:
    guess = guess_family({f"{module}.lora_down.weight": (4, 3072) for module in modules})
    assert str(guess) == f"{family}: {len(modules)} of {len(modules)} keys"


def test_what_looks_like_nothing_is_none() -> None:
    assert guess_family({"encoder.layer.weight": (1,)}) is None
