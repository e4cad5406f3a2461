"""Names of modules as tools write them: every prefix and wrapper with every kind of adapter; kinds that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rushes.cli.main import main
from rushes.errors import LoraError, LoraMismatch
from rushes.families.table import ARCHITECTURES
from rushes_service.lora.merge import LoraMerger
from rushes_service.lora.reading import read_lora
from rushes_service.lora.reading.families import KNOWN, another_family, fits
from rushes_service.lora.targets import NameTable, name_table, renamed
from rushes_service.models.hunyuan.names import ORIGINAL_NAMES as HUNYUAN_NAMES
from rushes_service.models.wan.names import wan_names
from rushes_service.models.wan.tiny import transformer

WIDTH, RANK = 64, 4
TOLERANCE = 1e-5
ORIGINAL, DIFFUSERS = "blocks.0.self_attn.q", "blocks.0.attn1.to_q"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return transformer()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.2


def merged(
    model: nn.Module, path: Path, names: NameTable | None = None, family: str = "wan2.1-t2v", **options: bool
) -> Tensors:
    """What the file adds to each weight."""
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merger = LoraMerger(model)
    lora = read_lora(path, names or wan_names(model), merger.shapes, family=family, **options)
    merger.merge([(lora, 1.0)])
    deltas = {name: tensor.double() - base[name].double() for name, tensor in model.state_dict().items()}
    merger.restore()
    return deltas


A, B = noise(RANK, WIDTH, seed=1), noise(WIDTH, RANK, seed=2)
W1A, W1B, W2A, W2B = (noise(*shape, seed=seed) for seed, shape in enumerate([(64, 4), (4, 64)] * 2, 3))
K1, K2 = noise(8, 8, seed=7), noise(8, 8, seed=8)
LENGTH = torch.linspace(1, 2, WIDTH).reshape(WIDTH, 1)


def dora(base: torch.Tensor) -> torch.Tensor:
    changed = base.double() + 0.5 * B.double() @ A.double()
    return changed * LENGTH.double() / changed.norm(dim=1, keepdim=True) - base.double()


KINDS: dict[str, tuple[Tensors, Callable[[torch.Tensor], torch.Tensor]]] = {
    "LoRA": (
        {"lora_down.weight": A, "lora_up.weight": B, "alpha": torch.tensor(2.0)},
        lambda _: 0.5 * B.double() @ A.double(),
    ),
    "LoHa": (
        {"hada_w1_a": W1A, "hada_w1_b": W1B, "hada_w2_a": W2A, "hada_w2_b": W2B, "alpha": torch.tensor(2.0)},
        lambda _: 0.5 * (W1A.double() @ W1B.double()) * (W2A.double() @ W2B.double()),
    ),
    "LoKr": ({"lokr_w1": K1, "lokr_w2": K2}, lambda _: torch.kron(K1.double(), K2.double())),
    "DoRA": (
        {"lora_down.weight": A, "lora_up.weight": B, "alpha": torch.tensor(2.0), "dora_scale": LENGTH},
        dora,
    ),
}

FLAT = ORIGINAL.replace(".", "_")
FLAT_DIFFUSERS = DIFFUSERS.replace(".", "_")

NAMES = {
    "none": ORIGINAL,
    "none, diffusers": DIFFUSERS,
    "kohya": f"lora_unet_{FLAT}",
    "VideoX-Fun": f"lora_unet__{FLAT}",
    "OneTrainer": f"lora_transformer_{FLAT_DIFFUSERS}",
    "LyCORIS": f"lycoris_{FLAT}",
    "ai-toolkit's LoKr": f"lycoris_{FLAT_DIFFUSERS}",
    "ai-toolkit's dollars": "transformer$$" + DIFFUSERS.replace(".", "$$"),
    "Tencent": f"Hunyuan_video_I2V_lora_{FLAT}",
    "PEFT": f"base_model.model.{DIFFUSERS}",
    "PEFT of a pipeline's part": f"base_model.model.transformer.{DIFFUSERS}",
    "ComfyUI": f"diffusion_model.{ORIGINAL}",
    "ComfyUI, whole prefix": f"model.diffusion_model.{ORIGINAL}",
    "diffusers": f"transformer.{DIFFUSERS}",
    "DiffSynth": f"pipe.dit.{ORIGINAL}",
    "dit": f"dit.{ORIGINAL}",
    "unet": f"unet.{DIFFUSERS}",
    "model": f"model.{ORIGINAL}",
    "net": f"net.{ORIGINAL}",
    "FSDP": "_fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.self_attn.q",
    "FSDP behind a prefix": "transformer._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.attn1.to_q",
    "DDP": f"module.{ORIGINAL}",
    "DDP inside": f"base_model.model.module.{DIFFUSERS}",
    "compiled": f"_orig_mod.{ORIGINAL}",
    "compiled blocks": "diffusion_model.blocks.0._orig_mod.self_attn.q",
    "compiled, flat": f"lora_unet__orig_mod_{FLAT}",
    "checkpointed": "blocks.0._checkpoint_wrapped_module.self_attn.q",
    "checkpointed, flat": "lora_unet_blocks_0__checkpoint_wrapped_module_self_attn_q",
    "all at once": "module._orig_mod.transformer._fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.attn1.to_q",
    "flat for a DiT": f"lora_dit_{FLAT}",
    "wrapped linear": f"{ORIGINAL}._fsdp_wrapped_module",
    "dots guessed": "diffusion_model.blocks.0.self.attn.q",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_prefix_and_wrapper_fits_with_every_kind(model: nn.Module, tmp_path: Path, kind: str, name: str) -> None:
    parts, wanted = KINDS[kind]
    save_file({f"{NAMES[name]}.{part}": tensor for part, tensor in parts.items()}, tmp_path / "a.safetensors")
    deltas = merged(model, tmp_path / "a.safetensors")
    base = model.state_dict()[f"{DIFFUSERS}.weight"]
    assert (deltas.pop(f"{DIFFUSERS}.weight") - wanted(base)).abs().max() <= TOLERANCE
    assert not any(delta.any() for delta in deltas.values())


@pytest.mark.parametrize("adapter", ["default", "style", "default_0"])
def test_an_adapters_own_name_is_no_part_of_the_modules(model: nn.Module, tmp_path: Path, adapter: str) -> None:
    tensors = {f"{ORIGINAL}.lora_A.{adapter}.weight": A, f"{ORIGINAL}.lora_B.{adapter}.weight": B}
    tensors |= {f"{ORIGINAL}.lora_magnitude_vector.{adapter}.weight": LENGTH.flatten()}
    save_file(tensors, tmp_path / "a.safetensors")
    assert merged(model, tmp_path / "a.safetensors")[f"{DIFFUSERS}.weight"].any()


def test_two_adapters_in_one_file_are_refused(model: nn.Module, tmp_path: Path) -> None:
    halves = (("A", A), ("B", B))
    tensors = {f"{ORIGINAL}.lora_{half}.{name}.weight": t.clone() for name in ("a", "b") for half, t in halves}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(LoraError, match="it is not clear which is meant"):
        merged(model, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "prefix"),
    [(f"generator.core.{ORIGINAL}", "'generator.core.'"), (f"lora_unet_inner_core_{FLAT}", "'lora_unet_inner_core_'")],
)
def test_an_unknown_prefix_is_refused_and_named(model: nn.Module, tmp_path: Path, name: str, prefix: str) -> None:
    save_file({f"{name}.{part}": tensor for part, tensor in KINDS["LoRA"][0].items()}, tmp_path / "a.safetensors")
    with pytest.raises(LoraMismatch, match=f"Their names begin with {prefix}"):
        merged(model, tmp_path / "a.safetensors")


FUSED = {
    "blocks.0.attn1.to_qkv": ["blocks.0.attn1.to_q", "blocks.0.attn1.to_k", "blocks.0.attn1.to_v"],
    "blocks.0.self_attn.qkv": ["blocks.0.attn1.to_q", "blocks.0.attn1.to_k", "blocks.0.attn1.to_v"],
    "blocks.0.attn1.qkv_proj": ["blocks.0.attn1.to_q", "blocks.0.attn1.to_k", "blocks.0.attn1.to_v"],
    "blocks.1.attn2.to_kv": ["blocks.1.attn2.to_k", "blocks.1.attn2.to_v"],
    "blocks.1.cross_attn.kv": ["blocks.1.attn2.to_k", "blocks.1.attn2.to_v"],
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_projections_reach_their_pieces(model: nn.Module, tmp_path: Path, name: str) -> None:
    up = noise(WIDTH * len(FUSED[name]), RANK, seed=5)
    save_file({f"{name}.lora_A.weight": A, f"{name}.lora_B.weight": up}, tmp_path / "a.safetensors")
    deltas = merged(model, tmp_path / "a.safetensors")
    wanted = (up.double() @ A.double()).split(WIDTH)
    for module, delta in zip(FUSED[name], wanted, strict=True):
        assert (deltas[f"{module}.weight"] - delta).abs().max() <= TOLERANCE


HUNYUAN = {
    "double_blocks.0.img_attn.qkv": ("double_blocks.0.img_attn_qkv", 3),
    "double_blocks.0.txt_attn.proj": ("double_blocks.0.txt_attn_proj", 1),
    "double_blocks.0.img_mlp.0": ("double_blocks.0.img_mlp.fc1", 4),
    "double_blocks.0.txt_mod.lin": ("double_blocks.0.txt_mod.linear", 6),
    "single_blocks.0.modulation.lin": ("single_blocks.0.modulation.linear", 3),
    "txt_in.individual_token_refiner.blocks.0.self_attn.qkv": (
        "txt_in.individual_token_refiner.blocks.0.self_attn_qkv",
        3,
    ),
    "time_in.out_layer": ("time_in.mlp.2", 1),
}


@pytest.mark.parametrize("name", HUNYUAN)
def test_comfyuis_inner_names_of_hunyuan_are_those_of_its_release(tmp_path: Path, name: str) -> None:
    from diffusers import HunyuanVideoTransformer3DModel

    torch.manual_seed(0)
    hunyuan = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, mlp_ratio=4.0, patch_size=2, patch_size_t=1, guidance_embeds=True, text_embed_dim=8,
        pooled_projection_dim=8, rope_axes_dim=(2, 2, 4),
    )  # fmt: skip
    names = name_table(hunyuan, lambda name: renamed(name, HUNYUAN_NAMES))
    original, times = HUNYUAN[name]
    down, up = noise(RANK, 16, seed=1), noise(16 * times, RANK, seed=2)
    found = []
    for called in (name, original):
        path = tmp_path / f"{len(found)}.safetensors"
        save_file(
            {f"diffusion_model.{called}.lora_A.weight": down, f"diffusion_model.{called}.lora_B.weight": up}, path
        )
        found.append(merged(hunyuan, path, names, "hunyuan-video"))
    assert any(delta.any() for delta in found[0].values())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


REFUSED: dict[str, tuple[Tensors, str]] = {
    "OFT": ({"oft_blocks": torch.zeros(4, 16, 16)}, "OFT or BOFT"),
    "OFT, PEFT": ({"oft_R.weight": torch.zeros(4, 8)}, "OFT"),
    "BOFT": ({"boft_R": torch.zeros(1, 4, 8, 8), "boft_s": torch.ones(64, 1)}, "BOFT"),
    "GLoRA": ({f"{half}{i}.weight": torch.zeros(4, 4) for half in "ab" for i in (1, 2)}, "GLoRA"),
    "T-LoRA": ({"q_layer.weight": A, "p_layer.weight": B, "lambda_layer": torch.ones(1, 4)}, "T-LoRA"),
    "AdaLoRA": ({"lora_A": A, "lora_B": B, "lora_E": torch.ones(4, 1), "ranknum": torch.tensor(4.0)}, "AdaLoRA"),
    "IA3": ({"ia3_l": torch.ones(64, 1)}, "IA3"),
    "IA3, LyCORIS": ({"weight": torch.ones(64), "on_input": torch.tensor(0.0)}, "IA3"),
    "VeRA": ({"vera_lambda_b": torch.ones(64), "vera_lambda_d": torch.ones(4)}, "VeRA"),
    "FourierFT": ({"fourierft_spectrum": torch.ones(10)}, "fourierft"),
    "HRA": ({"hra_u": torch.ones(64, 8)}, "hra"),
    "MiSS": ({"miss_block": torch.ones(8, 64)}, "MiSS"),
    "something new": ({"lora_A.weight": A, "lora_B.weight": B, "lora_S": torch.ones(4)}, "unknown relative"),
    "scaled float8": (
        {"lora_A.weight": A.to(torch.float8_e4m3fn), "lora_B.weight": B, "lora_A.weight_scale": torch.ones(1)},
        "quantised",
    ),
    "scaled float8, another way": (
        {"lora_down.weight": A.to(torch.float8_e4m3fn), "lora_up.weight": B, "lora_down.scale_weight": torch.ones(1)},
        "quantised",
    ),
    "marked": ({"lora_A.weight": A, "lora_B.weight": B, "scaled_fp8": torch.zeros(2)}, "quantised"),
    "comfy_quant": ({"lora_A.weight": A, "lora_B.weight": B, "lora_A.comfy_quant": torch.zeros(2)}, "quantised"),
    "int8": ({"lora_A.weight": A.to(torch.int8), "lora_B.weight": B}, "quantised .*int8"),
    "uint8": ({"lora_down.weight": A, "lora_up.weight": B.abs().to(torch.uint8)}, "quantised .*uint8"),
    "int32 LoKr": ({"lokr_w1": K1.to(torch.int32), "lokr_w2": K2}, "quantised .*int32"),
    "boolean difference": ({"diff": torch.ones(64, 64, dtype=torch.bool)}, "quantised .*bool"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("partial", [False, True])
def test_what_is_not_read_is_refused_by_name_by_sampling_and_by_inspect(
    model: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, partial: bool
) -> None:
    parts, message = REFUSED[kind]
    other = {
        f"diffusion_model.blocks.1.ffn.0.lora_{half}.weight": noise(*s) for half, s in (("A", (4, 64)), ("B", (128, 4)))
    }
    save_file(
        {f"diffusion_model.{ORIGINAL}.{part}": t for part, t in parts.items()} | other, tmp_path / "a.safetensors"
    )
    with pytest.raises(LoraMismatch, match=message):
        merged(model, tmp_path / "a.safetensors", allow_partial=partial)
    assert main(["inspect", str(tmp_path / "a.safetensors")]) == 1
    assert "REFUSED" in capsys.readouterr().out


@pytest.mark.parametrize("setting", [{"peft_type": "OFT"}, {"peft_type": "ADALORA"}, {"use_qalora": True}])
def test_a_configuration_of_another_kind_is_refused(
    model: nn.Module, tmp_path: Path, setting: dict[str, object]
) -> None:
    tensors = {f"base_model.model.{DIFFUSERS}.lora_A.weight": A, f"base_model.model.{DIFFUSERS}.lora_B.weight": B}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 4, **setting}))
    with pytest.raises(LoraMismatch, match="of a kind that is not read"):
        merged(model, tmp_path)


FAMILIES = {
    "modelspec": {"modelspec.architecture": "flux-1-dev/lora"},
    "modelspec of SDXL": {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"},
    "base model version": {"ss_base_model_version": "hunyuan_video"},
    "ai-toolkit": {"ss_base_model_version": "flux.1_kontext"},
    "PEFT": {"adapter_config": json.dumps({"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen-Image"})},
}


@pytest.mark.parametrize("told", FAMILIES)
@pytest.mark.parametrize("partial", [False, True])
def test_a_file_that_says_to_be_of_another_family_is_refused(
    model: nn.Module, tmp_path: Path, told: str, partial: bool
) -> None:
    tensors = {f"diffusion_model.{ORIGINAL}.{part}": t for part, t in KINDS["LoRA"][0].items()}
    save_file(tensors, tmp_path / "a.safetensors", metadata=FAMILIES[told])
    with pytest.raises(LoraMismatch, match=r"this file is for .* not for wan2\.1-t2v"):
        merged(model, tmp_path / "a.safetensors", allow_partial=partial)
    assert main(["inspect", str(tmp_path / "a.safetensors"), "--architecture", "wan2.1-t2v"]) == 1
    assert merged(model, tmp_path / "a.safetensors", allow_other_family=True)[f"{DIFFUSERS}.weight"].any()


OWN = [
    {"modelspec.architecture": "wan2.1/lora"},
    {"ss_base_model_version": "wan"},
    {"ss_base_model_version": "wan_2.2_14b"},
    {"ss_base_model_version": "sd_1.5", "software": json.dumps({"name": "ai-toolkit"})},
    {"ss_base_model_version": "something new"},
]


@pytest.mark.parametrize("told", OWN)
def test_a_file_of_this_family_is_merged(model: nn.Module, tmp_path: Path, told: dict[str, str]) -> None:
    tensors = {f"diffusion_model.{ORIGINAL}.{part}": t for part, t in KINDS["LoRA"][0].items()}
    save_file(tensors, tmp_path / "a.safetensors", metadata=told)
    assert merged(model, tmp_path / "a.safetensors")[f"{DIFFUSERS}.weight"].any()


FITTING = {
    "hunyuan-video-i2v": {"hunyuan-video"},
    "skyreels-v1-t2v": {"hunyuan-video"},
    "framepack-one-frame": {"framepack", "hunyuan-video"},
    "wan2.2-t2v-a14b": {"wan"},
    "flux1-kontext": {"flux1"},
    "qwen-image-edit": {"qwen-image"},
}


@pytest.mark.parametrize("architecture", FITTING)
def test_each_family_reads_its_own_files_and_those_it_was_made_of(architecture: str) -> None:
    assert {label for label in KNOWN if fits((label,), architecture)} == FITTING[architecture]


ALIKE = {
    "flux2-klein": "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
    "flux1-kontext": "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
    "ltx-2": "transformer.transformer_blocks.0.audio_to_video_attn.to_q.lora_A.weight",
}


@pytest.mark.parametrize("architecture", ALIKE)
def test_names_that_families_share_are_not_taken_for_another_family(architecture: str) -> None:
    assert another_family({ALIKE[architecture]: (4, 32)}, {}, architecture) is None


def test_every_family_that_is_sampled_is_one_that_files_can_be_of() -> None:
    assert all(
        any(fits((label,), name) for label in KNOWN) for name, spec in ARCHITECTURES.items() if not spec.own_defaults
    )
