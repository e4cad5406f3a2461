"""How strongly a LoRA acts: every place that states an alpha, alone, agreeing and contradicting; judged by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lycoris.modules.lokr import LokrModule
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn

from rushes.cli.main import main
from rushes.errors import CheckpointFormat, LoraError, LoraValue
from rushes_service.lora.merge import LoraMerger
from rushes_service.lora.reading import Lora, facts_of, read_lora
from rushes_service.lora.targets import NameTable, name_table, renamed
from rushes_service.models.flux.names import ORIGINAL_NAMES as FLUX_NAMES
from rushes_service.models.wan.names import wan_names
from rushes_service.models.wan.tiny import transformer

WIDTH, RANK, ALPHA = 64, 16, 4.0
TOLERANCE = 1e-5
Q = "blocks.0.attn1.to_q"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return transformer()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.2


DOWN, UP = noise(RANK, WIDTH, seed=1), noise(WIDTH, RANK, seed=2)
PLAIN = {f"transformer.{Q}.lora_A.weight": DOWN, f"transformer.{Q}.lora_B.weight": UP}


def merged(
    model: nn.Module, path: Path, names: NameTable | None = None, family: str = "wan2.1-t2v"
) -> tuple[Lora, Tensors]:
    """The file, and what it adds to each weight in float64."""
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merger = LoraMerger(model)
    lora = read_lora(path, names or wan_names(model), merger.shapes, family=family)
    merger.merge([(lora, 1.0)])
    deltas = {name: tensor.double() - base[name].double() for name, tensor in model.state_dict().items()}
    merger.restore()
    return lora, deltas


def check(model: nn.Module, path: Path, scale: float) -> Lora:
    lora, deltas = merged(model, path)
    wanted = scale * (UP.double() @ DOWN.double())
    assert (deltas[f"{Q}.weight"] - wanted).abs().max() <= TOLERANCE
    return lora


Place = Callable[[Path, float], Path]


def header(**entries: Any) -> Place:
    """Plain factors, with entries in the header; ALPHA in them is what is stated."""

    def write(directory: Path, alpha: float) -> Path:
        text = {key: value(alpha) if callable(value) else str(value) for key, value in entries.items()}
        save_file(PLAIN, directory / "a.safetensors", metadata=text)
        return directory / "a.safetensors"

    return write


def tensor(directory: Path, alpha: float) -> Path:
    save_file({**PLAIN, f"transformer.{Q}.alpha": torch.tensor(alpha)}, directory / "a.safetensors")
    return directory / "a.safetensors"


def beside(directory: Path, alpha: float, *, named: str = "adapter_model.safetensors", bom: str = "") -> Path:
    tensors = {f"base_model.model.{Q}.lora_A.weight": DOWN, f"base_model.model.{Q}.lora_B.weight": UP}
    save_file(tensors, directory / named)
    text = bom + json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": alpha})
    (directory / "adapter_config.json").write_text(text, encoding="utf-8")
    return directory / named


def directory_of(directory: Path, alpha: float) -> Path:
    return beside(directory, alpha).parent


def number(alpha: float) -> str:
    return f"{alpha:g}"


def as_json(**entries: Any) -> Callable[[float], str]:
    return lambda alpha: json.dumps({key: alpha if value is ALPHA else value for key, value in entries.items()})


def inside(outer: str, **entries: Any) -> Callable[[float], str]:
    return lambda alpha: json.dumps({outer: json.loads(as_json(**entries)(alpha))})


PLACES: dict[str, Place] = {
    "tensor": tensor,
    "PEFT directory": directory_of,
    "PEFT file, configuration beside it": beside,
    "PEFT file of another name": lambda d, a: beside(d, a, named="style.safetensors"),
    "configuration with a byte order mark": lambda d, a: beside(d, a, bom="\ufeff"),
    "diffusers, model": header(lora_adapter_metadata=as_json(r=RANK, lora_alpha=ALPHA)),
    "diffusers, pipeline": header(
        lora_adapter_metadata=as_json(**{"transformer.r": RANK, "transformer.lora_alpha": ALPHA})
    ),
    "finetrainers": header(lora_config=as_json(r=RANK, lora_alpha=ALPHA)),
    "configuration called otherwise": header(training=as_json(rank=RANK, alpha=ALPHA)),
    "configuration in a configuration": header(config=inside("network", dim=RANK, alpha=ALPHA)),
    "lora_alpha alone in a configuration": header(settings=as_json(lora_alpha=ALPHA)),
    "adapter's name in a configuration": header(peft_config=inside("default", r=RANK, lora_alpha=ALPHA)),
    "alpha and rank": header(alpha=number, rank=RANK),
    "alpha alone": header(alpha=number),
    "lora_alpha and r": header(lora_alpha=number, r=RANK),
    "lora_alpha alone": header(lora_alpha=number),
    "network_alpha": header(network_alpha=number, network_dim=RANK),
    "network_alpha alone": header(network_alpha=number),
    "ss_network_alpha": header(ss_network_alpha=number, ss_network_dim=RANK),
    "ss_network_alpha alone": header(ss_network_alpha=number),
    "written as a float": header(ss_network_alpha=lambda alpha: f"{alpha:.1f}", ss_network_dim=f"{RANK}"),
}


@pytest.mark.parametrize("place", PLACES)
def test_alpha_counts_wherever_it_is_stated(model: nn.Module, tmp_path: Path, place: str) -> None:
    lora = check(model, PLACES[place](tmp_path, ALPHA), ALPHA / RANK)
    assert not lora.report.scale.startswith("1")


@pytest.mark.parametrize("place", PLACES)
def test_alpha_beside_the_tensors_that_says_the_same_counts_once(model: nn.Module, tmp_path: Path, place: str) -> None:
    path = with_tensor_alpha(PLACES[place](tmp_path, ALPHA), ALPHA)
    check(model, path, ALPHA / RANK)


@pytest.mark.parametrize("place", [place for place in PLACES if place != "tensor"])
def test_two_places_that_contradict_each_other_are_refused_and_named(
    model: nn.Module, tmp_path: Path, place: str
) -> None:
    path = with_tensor_alpha(PLACES[place](tmp_path, ALPHA), 3 * ALPHA)
    with pytest.raises(LoraValue, match=r"alpha.*(12|4).*but.*; it is not clear which is meant"):
        merged(model, path)


def with_tensor_alpha(path: Path, alpha: float) -> Path:
    """The file with an alpha among its tensors as well."""
    from safetensors import safe_open

    weights = path / "adapter_model.safetensors" if path.is_dir() else path
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    prefix = "base_model.model" if any(key.startswith("base_model") for key in tensors) else "transformer"
    save_file({**tensors, f"{prefix}.{Q}.alpha": torch.tensor(alpha)}, weights, metadata=metadata)
    return path


CONTRADICTIONS = {
    "two bare ones": header(alpha="4", lora_alpha="8"),
    "bare and JSON": header(ss_network_alpha="4", lora_config=json.dumps({"r": RANK, "lora_alpha": 8})),
    "two in one configuration": header(lora_config=json.dumps({"r": RANK, "lora_alpha": 4, "alpha": 8})),
    "ranks": header(lora_alpha="4", lora_config=json.dumps({"r": 8, "lora_alpha": 4}), rank="16"),
    "rank that no module has": header(alpha="4", rank="8"),
    "configuration of another file": header(lora_config=json.dumps({"r": 8, "lora_alpha": 4})),
    "stabilised and not": header(
        lora_config=json.dumps({"r": RANK, "lora_alpha": 4, "use_rslora": True}),
        peft_config=json.dumps({"r": RANK, "lora_alpha": 4, "use_rslora": False}),
    ),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_a_header_that_contradicts_itself_is_refused(model: nn.Module, tmp_path: Path, kind: str) -> None:
    with pytest.raises((LoraValue, CheckpointFormat), match=r"not clear which is meant|belongs to another file"):
        merged(model, CONTRADICTIONS[kind](tmp_path, 0))


SPELLINGS = {
    "a module's lora_alpha": {f"transformer.{Q}.lora_alpha": ALPHA},
    "a module's network_alpha": {f"transformer.{Q}.network_alpha": ALPHA},
    "one for all modules": {"alpha": ALPHA},
    "lora_alpha for all modules": {"lora_alpha": ALPHA},
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_an_alpha_among_the_tensors_may_be_called_otherwise(model: nn.Module, tmp_path: Path, kind: str) -> None:
    extra = {key: torch.tensor(value) for key, value in SPELLINGS[kind].items()}
    save_file({**PLAIN, **extra}, tmp_path / "a.safetensors")
    check(model, tmp_path / "a.safetensors", ALPHA / RANK)


@pytest.mark.parametrize("partial", [False, True])
def test_a_scale_that_is_not_known_is_refused(model: nn.Module, tmp_path: Path, partial: bool) -> None:
    save_file({**PLAIN, f"transformer.{Q}.scale": torch.tensor(0.5)}, tmp_path / "a.safetensors")
    merger = LoraMerger(model)
    with pytest.raises(LoraError, match="scales its adapters in a way that is not known"):
        read_lora(
            tmp_path / "a.safetensors", wan_names(model), merger.shapes, family="wan2.1-t2v", allow_partial=partial
        )


def test_a_dora_without_its_lengths_is_refused(model: nn.Module, tmp_path: Path) -> None:
    told = {"lora_config": json.dumps({"r": RANK, "lora_alpha": 4, "use_dora": True})}
    save_file(PLAIN, tmp_path / "a.safetensors", metadata=told)
    with pytest.raises(LoraError, match="lora_config says that it is a DoRA, but it holds no lengths"):
        merged(model, tmp_path / "a.safetensors")


UNSTATED = {
    "nothing": {},
    "other things": {
        "ss_epoch": "4",
        "format": "pt",
        "ss_tag_frequency": json.dumps({"10_cat": {"alpha": 3, "rank": 1}}),
    },
    "words": {"ss_network_alpha": "None", "ss_network_dim": "Dynamic"},
    "rank alone": {"rank": str(RANK)},
    "a workflow": {"workflow": json.dumps({"nodes": [], "lora_alpha": 3})},
}


@pytest.mark.parametrize("kind", UNSTATED)
def test_where_nothing_states_an_alpha_the_receipt_says_so(
    model: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    save_file(PLAIN, tmp_path / "a.safetensors", metadata=UNSTATED[kind])
    lora = check(model, tmp_path / "a.safetensors", 1.0)
    assert facts_of(lora, 1.0)["scale"] == "1, since nothing states an alpha"
    assert main(["inspect", str(tmp_path / "a.safetensors")]) == 0
    assert "scale    1, since nothing states an alpha" in capsys.readouterr().out


def test_a_converted_file_has_its_alpha_in_the_factors(model: nn.Module, tmp_path: Path) -> None:
    told = {"ss_network_module": "networks.lora_wan", "ss_network_dim": "16", "ss_network_alpha": "1"}
    save_file(
        {key.replace("transformer", "diffusion_model"): t for key, t in PLAIN.items()}, tmp_path / "a.safetensors", told
    )
    lora = check(model, tmp_path / "a.safetensors", 1.0)
    assert "multiplied into the factors when it was converted" in lora.report.scale


def test_an_alpha_that_is_none_is_refused(model: nn.Module, tmp_path: Path) -> None:
    for text in ("0", "-1", "nan", "inf"):
        save_file(PLAIN, tmp_path / "a.safetensors", metadata={"lora_alpha": text})
        with pytest.raises(CheckpointFormat, match=r"lora_alpha in its header is .*not a number above 0"):
            merged(model, tmp_path / "a.safetensors")
    with pytest.raises(LoraValue, match="has an alpha of 0"):
        merged(model, tensor(tmp_path, 0.0))


ADAPTERS = {
    "rank-stabilised": LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["to_q"]),
    "patterns": LoraConfig(
        r=4,
        lora_alpha=8,
        alpha_pattern={"blocks.1.attn1.to_q": 2},
        rank_pattern={"attn2.to_q": 2},
        target_modules=["to_q"],
    ),
    "DoRA": LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=["to_q"]),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_what_diffusers_saves_of_a_model_is_merged_as_peft_merges_it(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    tuned = transformer()
    base = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
    tuned.add_adapter(ADAPTERS[kind])
    for index, (name, parameter) in enumerate(tuned.named_parameters()):
        if "magnitude" in name:
            parameter.data = parameter.data * 1.1
        elif "lora_" in name:
            parameter.data = noise(*parameter.shape, seed=index)
    tuned.save_lora_adapter(tmp_path)
    tuned.fuse_lora()
    plain = transformer()
    plain.load_state_dict(base)
    _, deltas = merged(plain, tmp_path / "pytorch_lora_weights.safetensors")
    for block in (0, 1):
        for attention in ("attn1", "attn2"):
            name = f"blocks.{block}.{attention}.to_q"
            fused = tuned.get_submodule(name).base_layer.weight.detach().double()
            assert (base[f"{name}.weight"].double() + deltas[f"{name}.weight"] - fused).abs().max() <= TOLERANCE


@pytest.mark.parametrize("dim", [4, 8, 11, 100000])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("stabilised", [True, False])
def test_a_whole_lokr_acts_as_in_its_trainer(
    model: nn.Module, tmp_path: Path, dim: int, told: bool, stabilised: bool
) -> None:
    if stabilised and not told and dim in (4, 100000):
        pytest.skip("its alpha may be that of another rank as well")
    linear = nn.Linear(WIDTH, WIDTH)
    made = LokrModule(
        "m",
        linear,
        lora_dim=dim,
        alpha=2.0,
        full_matrix=True,
        factor=8,
        decompose_both=False,
        rs_lora=stabilised,
        bypass_mode=False,
    )
    made.lokr_w1.data, made.lokr_w2.data = noise(8, 8, seed=1), noise(8, 8, seed=2)
    wanted = made.double().get_weight(made.shape).detach().view(WIDTH, WIDTH)
    tensors = {
        f"lora_unet_blocks_0_self_attn_q.{key}": value for key, value in made.float().custom_state_dict().items()
    }
    arguments = {"algo": "lokr", "rs_lora": str(stabilised), "full_matrix": "True"}
    metadata = {"ss_network_dim": str(dim), "ss_network_alpha": "2.0", "ss_network_args": json.dumps(arguments)}
    save_file(
        {k: v.detach().clone().contiguous() for k, v in tensors.items()},
        tmp_path / "a.safetensors",
        metadata if told else None,
    )
    _, deltas = merged(model, tmp_path / "a.safetensors")
    assert (deltas[f"{Q}.weight"] - wanted).abs().max() <= TOLERANCE * max(1, math.sqrt(dim))


def test_a_whole_lokr_of_boundless_rank_is_no_divergence(model: nn.Module, tmp_path: Path) -> None:
    w1, w2 = noise(8, 8, seed=1), noise(8, 8, seed=2)
    name = "diffusion_model.blocks.0.self_attn.q"
    tensors = {f"{name}.lokr_w1": w1, f"{name}.lokr_w2": w2, f"{name}.alpha": torch.tensor(9999999999.0).half()}
    save_file(tensors, tmp_path / "a.safetensors")
    _, deltas = merged(model, tmp_path / "a.safetensors")
    assert (deltas[f"{Q}.weight"] - torch.kron(w1.double(), w2.double())).abs().max() <= TOLERANCE


@pytest.fixture(scope="module")
def flux() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip


SPLIT = {
    "told": {"ss_network_dim": "4", "ss_network_alpha": "4", "ss_network_args": json.dumps({"split_qkv": "True"})},
    "by its rank": {"ss_network_dim": "4", "ss_network_alpha": "4"},
}
FUSED = {
    "double_blocks_0_img_attn_qkv": ((48, 48, 48), ("to_q", "to_k", "to_v"), "transformer_blocks.0.attn"),
    "single_blocks_0_linear1": (
        (48, 48, 48, 192),
        ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        "single_transformer_blocks.0",
    ),
}


@pytest.mark.parametrize("told", SPLIT)
@pytest.mark.parametrize("module", FUSED)
def test_split_qkv_has_the_rank_of_its_pieces(flux: nn.Module, tmp_path: Path, told: str, module: str) -> None:
    rows, leaves, parent = FUSED[module]
    downs = [noise(4, 48, seed=index) for index in range(len(rows))]
    ups = [noise(count, 4, seed=10 + index) for index, count in enumerate(rows)]
    name = f"lora_unet_{module}"
    tensors = {f"{name}.lora_down.weight": torch.cat(downs), f"{name}.lora_up.weight": torch.block_diag(*ups)}
    save_file(
        {**tensors, f"{name}.alpha": torch.tensor(2.0)},
        tmp_path / "a.safetensors",
        metadata={**SPLIT[told], "ss_network_alpha": "2"},
    )
    names = name_table(flux, lambda name: renamed(name, FLUX_NAMES))
    _, deltas = merged(flux, tmp_path / "a.safetensors", names, "flux1-kontext")
    for down, up, leaf in zip(downs, ups, leaves, strict=True):
        wanted = 0.5 * up.double() @ down.double()
        assert (deltas[f"{parent}.{leaf}.weight"] - wanted).abs().max() <= TOLERANCE


def test_a_fused_module_of_full_rank_keeps_its_scale(flux: nn.Module, tmp_path: Path) -> None:
    down, up = noise(4, 48), noise(144, 4)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"ss_network_dim": "4", "ss_network_alpha": "2"})
    names = name_table(flux, lambda name: renamed(name, FLUX_NAMES))
    _, deltas = merged(flux, tmp_path / "a.safetensors", names, "flux1-kontext")
    wanted = 0.5 * (up.double() @ down.double())[:48]
    assert (deltas["transformer_blocks.0.attn.to_q.weight"] - wanted).abs().max() <= TOLERANCE


STATED = st.fixed_dictionaries(
    {},
    optional={
        "tensor": st.sampled_from([1.0, 4.0, 16.0]),
        "lora_config": st.fixed_dictionaries(
            {"lora_alpha": st.sampled_from([1.0, 4.0, 16.0])},
            optional={
                "r": st.sampled_from([8, 16]),
                "use_rslora": st.booleans(),
                "alpha_pattern": st.just({"attn1.to_q": 2.0}),
            },
        ),
        "ss_network_alpha": st.sampled_from(["1", "4.0", "None"]),
        "lora_alpha": st.sampled_from(["4", "16"]),
        "rank": st.sampled_from(["8", "16"]),
    },
)


def scale_by_hand(stated: dict[str, Any]) -> float:
    """The one scale of all that is stated, from its meaning alone."""
    config = stated.get("lora_config", {})
    if "tensor" in stated:
        return float(stated["tensor"]) / RANK
    bare = [float(stated[key]) for key in ("ss_network_alpha", "lora_alpha") if stated.get(key, "None") != "None"]
    if "alpha_pattern" in config:
        alpha = config["alpha_pattern"]["attn1.to_q"]
    else:
        alpha = next(iter([*([config["lora_alpha"]] if config else []), *bare]), None)
    if alpha is None:
        return 1.0
    return float(alpha) / (RANK**0.5 if config.get("use_rslora") else RANK)


def lokr_delta() -> torch.Tensor:
    return torch.kron(K1.double(), K2A.double() @ K2B.double())


HADAMARD = [
    noise(WIDTH, RANK, seed=3),
    noise(RANK, WIDTH, seed=4),
    noise(WIDTH, RANK, seed=5),
    noise(RANK, WIDTH, seed=6),
]
K1, K2A, K2B = noise(4, 4, seed=7), noise(16, RANK, seed=8), noise(RANK, 16, seed=9)
LENGTH = torch.linspace(1, 2, WIDTH)

KINDS: dict[str, tuple[Tensors, Callable[[], torch.Tensor]]] = {
    "LoRA": ({"lora_A.weight": DOWN, "lora_B.weight": UP}, lambda: UP.double() @ DOWN.double()),
    "LoHa": (
        dict(zip(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), HADAMARD, strict=True)),
        lambda: (HADAMARD[0].double() @ HADAMARD[1].double()) * (HADAMARD[2].double() @ HADAMARD[3].double()),
    ),
    "LoKr": ({"lokr_w1": K1, "lokr_w2_a": K2A, "lokr_w2_b": K2B}, lokr_delta),
    "DoRA": (
        {"lora_A.weight": DOWN, "lora_B.weight": UP, "lora_magnitude_vector": LENGTH},
        lambda: UP.double() @ DOWN.double(),
    ),
}
PREFIXES = ("transformer.", "diffusion_model.", "base_model.model.", "", "module._orig_mod.")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stated=STATED, kind=st.sampled_from(sorted(KINDS)), prefix=st.sampled_from(PREFIXES))
def test_what_is_accepted_acts_as_everything_in_it_states(
    model: nn.Module, tmp_path: Path, stated: dict[str, Any], kind: str, prefix: str
) -> None:
    metadata = {
        key: json.dumps(value) if isinstance(value, dict) else value for key, value in stated.items() if key != "tensor"
    }
    parts, unscaled = KINDS[kind]
    own = {"alpha": torch.tensor(stated["tensor"])} if "tensor" in stated else {}
    save_file({f"{prefix}{Q}.{part}": t for part, t in {**parts, **own}.items()}, tmp_path / "a.safetensors", metadata)
    try:
        _, deltas = merged(model, tmp_path / "a.safetensors")
    except LoraError:
        assert len(stated) > 1 or len(stated["lora_config"]) > 1
        return
    wanted = scale_by_hand(stated) * unscaled()
    if kind == "DoRA":
        base = model.state_dict()[f"{Q}.weight"].double()
        changed = base + wanted
        wanted = changed * LENGTH.double()[:, None] / changed.norm(dim=1, keepdim=True) - base
    assert (deltas[f"{Q}.weight"] - wanted).abs().max() <= TOLERANCE
