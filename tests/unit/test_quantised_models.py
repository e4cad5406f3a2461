"""Quantised base models: scaled fp8 is multiplied out, every other kind is refused by its name, also by `doctor`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from golden_support import Case
from rushes.errors import ModelError
from rushes.families.table import ARCHITECTURES
from rushes.wire.models import ModelSpec
from rushes_service.doctor.files import check_component
from rushes_service.doctor.fit import check_files
from rushes_service.models.loading.building import build
from rushes_service.models.loading.directories import loaded
from rushes_service.models.loading.files.headers import read_header
from rushes_service.models.loading.files.quantisation import check_directory
from rushes_service.models.loading.from_files import find_source
from single_files_support import recorded_files

Tensors = dict[str, torch.Tensor]
Quantise = Callable[[str, torch.Tensor], Tensors]

FAMILY = "wan2.1-t2v"
QUANTISED = ("attn.q.weight", "ffn.0.weight")


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Wan transformer in the names of its release."""
    return Path(recorded_files(Case("wan_t2v"), tmp_path_factory.mktemp("files"))["dit"])


def marker(form: str, **more: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps({"format": form, **more}).encode()), dtype=torch.uint8)


def module_of(key: str) -> str:
    return key.removesuffix(".weight")


def integers(dtype: torch.dtype, scale: str | None = None, form: str | None = None) -> Quantise:
    """Weights as whole numbers."""

    def quantise(key: str, weight: torch.Tensor) -> Tensors:
        unit = weight.abs().amax(1, keepdim=True) / 100
        found = {key: (weight / unit).round().abs().to(dtype) if dtype is torch.uint8 else (weight / unit).to(dtype)}
        if scale:
            found[f"{module_of(key)}.{scale}"] = unit
        if form:
            found[f"{module_of(key)}.comfy_quant"] = marker(form)
        return found

    return quantise


def fp8(scale: str, shape: Callable[[torch.Tensor], torch.Tensor], form: str | None = None, **more: object) -> Quantise:
    """Weights in fp8, with a scale made of the weight by `shape`."""

    def quantise(key: str, weight: torch.Tensor) -> Tensors:
        found = {key: weight.to(torch.float8_e4m3fn), f"{module_of(key)}.{scale}": shape(weight)}
        return found | ({f"{module_of(key)}.comfy_quant": marker(form, **more)} if form else {})

    return quantise


def floats(dtype: torch.dtype, scale: str) -> Quantise:
    """Weights as floats that a scale is beside."""
    return lambda key, weight: {key: (weight * 100).to(dtype), f"{module_of(key)}.{scale}": torch.tensor(0.01)}


def beside(**more: torch.Tensor) -> Quantise:
    """Weights as they are, with more beside them."""
    return lambda key, weight: {key: weight, **{f"{module_of(key)}.{name}": tensor for name, tensor in more.items()}}


def instead(**more: torch.Tensor) -> Quantise:
    """Other tensors in place of a weight."""
    return lambda key, _: {f"{module_of(key)}.{name}": tensor for name, tensor in more.items()}


ONE = torch.ones(1)
BYTES = torch.zeros(4, 4, dtype=torch.uint8)

REFUSED: dict[str, tuple[Quantise, str]] = {
    "int8 of ComfyUI": (integers(torch.int8, "weight_scale", "int8_tensorwise"), "int8_tensorwise"),
    "int8 with a scale": (integers(torch.int8, "weight_scale"), "is I8 with a scale beside it"),
    "int8 with musubi's scale": (integers(torch.int8, "scale_weight"), "is I8 with a scale beside it"),
    "int8 alone": (integers(torch.int8), "is I8"),
    "uint8": (integers(torch.uint8), "is U8"),
    "int16": (integers(torch.int16), "is I16"),
    "int32": (integers(torch.int32), "is I32"),
    "int64": (integers(torch.int64), "is I64"),
    "bool": (lambda key, weight: {key: weight > 0}, "is BOOL"),
    "mxfp8 of ComfyUI": (
        fp8("weight_scale", lambda w: torch.full((len(w), w.shape[1] // 8), 127, dtype=torch.uint8), "mxfp8"),
        "mxfp8",
    ),
    "exponents as scales": (fp8("weight_scale", lambda w: torch.full((len(w), 1), 127, dtype=torch.uint8)), "mxfp8"),
    "nvfp4": (
        lambda key, weight: {
            key: BYTES,
            f"{module_of(key)}.weight_scale": torch.ones(4, 1).to(torch.float8_e4m3fn),
            f"{module_of(key)}.weight_scale_2": ONE,
            f"{module_of(key)}.comfy_quant": marker("nvfp4"),
        },
        "nvfp4",
    ),
    "blocks of columns": (fp8("weight_scale", lambda w: torch.ones(len(w), 2)), "has a scale of the shape"),
    "square blocks": (fp8("weight_scale", lambda _: torch.ones(2, 2)), "has a scale of the shape"),
    "square blocks of DeepSeek": (fp8("weight_scale_inv", lambda _: torch.ones(2, 2)), "fp8 in square blocks"),
    "a scale a column": (fp8("scale_weight", lambda w: torch.ones(1, w.shape[1])), "has a scale of the shape"),
    "blocks that do not divide": (fp8("scale_weight", lambda w: torch.ones(len(w), 5, 1)), "has a scale of the shape"),
    "rows too few": (fp8("scale_weight", lambda w: torch.ones(len(w) - 1)), "has a scale of the shape"),
    "two scales": (
        lambda key, weight: (
            fp8("scale_weight", lambda _: ONE)(key, weight) | fp8("weight_scale", lambda _: ONE)(key, weight)
        ),
        "has two scales",
    ),
    "an unknown format": (fp8("weight_scale", lambda _: ONE, "float8_of_tomorrow"), "float8_of_tomorrow"),
    "a known format, rotated": (fp8("weight_scale", lambda _: ONE, "float8_e4m3fn", convrot=True), "with convrot"),
    "float16 with a scale": (floats(torch.float16, "weight_scale"), "is F16 with a scale beside it"),
    "bfloat16 with a scale": (floats(torch.bfloat16, "scale_weight"), "is BF16 with a scale beside it"),
    "float32 with a scale": (floats(torch.float32, "weight_scale"), "is F32 with a scale beside it"),
    "inputs that were smoothed": (beside(pre_quant_scale=ONE), "smoothed inputs"),
    "float16 with a scale of another name": (beside(scale=ONE), "stands beside a weight"),
    "a scale with a number": (beside(weight_scale2=ONE), "stands beside a weight"),
    "a zero point": (beside(weight_zero_point=ONE), "zero point"),
    "GPTQ": (instead(qweight=BYTES, qzeros=BYTES, scales=ONE), "GPTQ"),
    "SVDQuant": (instead(wscales=ONE, smooth_factor=ONE), "SVDQuant"),
    "bitsandbytes int8": (lambda key, w: {key: w.to(torch.int8), f"{module_of(key)}.SCB": ONE}, "I8|bitsandbytes"),
    "bitsandbytes nf4": (
        lambda key, _: {key: BYTES, f"{key}.absmax": ONE, f"{key}.quant_state.bitsandbytes__nf4": BYTES},
        "bitsandbytes|is U8|beside a weight",
    ),
    "quanto": (instead(**{"weight._data": BYTES, "weight._scale": ONE}), "quanto|beside a weight"),
}


def quantised_tensors(dit: Path, quantise: Quantise) -> Tensors:
    tensors = load_file(dit)
    for key in [key for key in tensors if key.endswith(QUANTISED)]:
        tensors |= quantise(key, tensors.pop(key))
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def written(dit: Path, directory: Path, tensors: Tensors, ending: str = ".safetensors", **metadata: str) -> Path:
    path = directory / f"model{ending}"
    path.with_suffix(".config.json").write_text(dit.with_suffix(".config.json").read_text())
    if ending == ".safetensors":
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, path, metadata=metadata or None)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_a_quantised_model_of_another_kind_is_refused_by_name(dit: Path, tmp_path: Path, name: str) -> None:
    quantise, told = REFUSED[name]
    path = written(dit, tmp_path, quantised_tensors(dit, quantise))
    with pytest.raises(ModelError, match=told) as caught:
        build(read_header(path), WanTransformer3DModel)
    assert str(path) in str(caught.value)
    with pytest.raises(ModelError, match=told):
        find_source(ModelSpec(architecture=FAMILY, dit=str(path)), ARCHITECTURES[FAMILY], ("WanPipeline",), ())
    findings = list(check_files(FAMILY, {"dit": str(path)}, None))
    assert [finding.mark for finding in findings if finding.name == "--dit"] == ["fail"]


@pytest.mark.parametrize("name", ["int8 alone", "int64", "float16 with a scale"])
def test_pickled_files_are_checked_likewise(dit: Path, tmp_path: Path, name: str) -> None:
    quantise, told = REFUSED[name]
    path = written(dit, tmp_path, quantised_tensors(dit, quantise), ".pth")
    with pytest.raises(ModelError, match=told):
        build(read_header(path), WanTransformer3DModel)


def test_a_format_in_the_header_is_read(dit: Path, tmp_path: Path) -> None:
    about = json.dumps({"format_version": "1.0", "layers": {"blocks.0.self_attn.q": {"format": "mxfp8"}}})
    path = written(dit, tmp_path, load_file(dit), _quantization_metadata=about)
    with pytest.raises(ModelError, match=r"mxfp8 \(_quantization_metadata blocks\.0\.self_attn\.q\)"):
        build(read_header(path), WanTransformer3DModel)


READ: dict[str, Quantise] = {
    "one scale": fp8("weight_scale", lambda w: torch.tensor(2.0)),
    "one scale, marked": fp8("weight_scale", lambda w: torch.tensor([2.0]), "float8_e4m3fn"),
    "marked, with what changes nothing": fp8(
        "weight_scale", lambda w: torch.tensor([[2.0]]), "float8_e4m3fn", full_precision_matrix_mult=True
    ),
    "a scale a row": fp8("scale_weight", lambda w: torch.full((len(w),), 2.0)),
    "a scale a row, standing": fp8("scale_weight", lambda w: torch.full((len(w), 1), 2.0, dtype=torch.bfloat16)),
    "blocks of musubi": fp8("scale_weight", lambda w: torch.full((len(w), 4, 1), 2.0)),
}


@pytest.mark.parametrize("name", READ)
def test_scaled_fp8_is_multiplied_out(dit: Path, tmp_path: Path, name: str) -> None:
    path = written(dit, tmp_path, quantised_tensors(dit, READ[name]))
    right = build(read_header(dit), WanTransformer3DModel).state_dict()
    found = build(read_header(path), WanTransformer3DModel).state_dict()
    for key, weight in right.items():
        doubled = key.endswith(("attn1.to_q.weight", "attn2.to_q.weight", "ffn.net.0.proj.weight"))
        assert torch.equal(found[key], weight.to(torch.float8_e4m3fn).float() * 2 if doubled else weight), key
    assert next(check_files(FAMILY, {"dit": str(path)}, None)).mark == "ok"


def test_integers_where_a_parameter_of_any_name_should_be_are_refused(dit: Path, tmp_path: Path) -> None:
    tensors = load_file(dit)
    tensors["head.modulation"] = tensors["head.modulation"].to(torch.int32)
    with pytest.raises(ModelError, match=r"head\.modulation"):
        build(read_header(written(dit, tmp_path, tensors)), WanTransformer3DModel)


def directory_of(dit: Path, directory: Path) -> Path:
    build(read_header(dit), WanTransformer3DModel).save_pretrained(directory)
    return directory


def rewritten(directory: Path, quantise: Quantise) -> None:
    (file,) = directory.glob("*.safetensors")
    tensors = load_file(file)
    for key in [key for key in tensors if key.endswith("to_q.weight")]:
        tensors |= quantise(key, tensors.pop(key))
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["int8 with a scale", "int8 alone", "float16 with a scale", "a zero point"])
def test_a_directory_that_is_quantised_is_refused(dit: Path, tmp_path: Path, name: str) -> None:
    directory = directory_of(dit, tmp_path / "transformer")
    rewritten(directory, REFUSED[name][0])
    with pytest.raises(ModelError, match=REFUSED[name][1]):
        loaded(directory, WanTransformer3DModel, torch.float32)
    assert check_component(directory).mark == "fail"


def test_scales_in_a_directory_are_refused_for_its_loader_leaves_them_out(dit: Path, tmp_path: Path) -> None:
    directory = directory_of(dit, tmp_path / "transformer")
    rewritten(directory, READ["one scale"])
    with pytest.raises(ModelError, match="give the file by its own flag"):
        loaded(directory, WanTransformer3DModel, torch.float32)
    assert check_component(directory).mark == "fail"


@pytest.mark.parametrize("method", ["bitsandbytes", "torchao", "quanto", "gguf"])
def test_a_directory_that_states_how_it_is_quantised_is_refused(dit: Path, tmp_path: Path, method: str) -> None:
    directory = directory_of(dit, tmp_path / "transformer")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
    with pytest.raises(ModelError, match=method):
        check_directory(directory)
    assert check_component(directory).mark == "fail"


def test_a_directory_that_is_not_quantised_is_read(dit: Path, tmp_path: Path) -> None:
    directory = directory_of(dit, tmp_path / "transformer")
    assert check_component(directory).mark == "ok"
    assert loaded(directory, WanTransformer3DModel, torch.float32) is not None


WRAPPED = (
    "module.{}",
    "_orig_mod.{}",
    "transformer.{}",
    "module._orig_mod.{}",
    "_orig_mod.module.{}",
    "model.diffusion_model._orig_mod.{}",
    "_fsdp_wrapped_module.{}",
    "diffusion_model.{}",
)


@pytest.mark.parametrize("pattern", WRAPPED)
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_names_behind_wrappers_are_the_same_model(dit: Path, tmp_path: Path, pattern: str, ending: str) -> None:
    tensors = {pattern.format(key): tensor for key, tensor in load_file(dit).items()}
    found = build(read_header(written(dit, tmp_path, tensors, ending)), WanTransformer3DModel).state_dict()
    right = build(read_header(dit), WanTransformer3DModel).state_dict()
    assert all(torch.equal(found[key], right[key]) for key in right)


def test_wrappers_inside_names_and_fp8_behind_them(dit: Path, tmp_path: Path) -> None:
    plain = quantised_tensors(dit, READ["one scale"])
    wrapped = {
        key.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn._orig_mod."): t for key, t in plain.items()
    }
    (tmp_path / "plain").mkdir()
    right = build(read_header(written(dit, tmp_path / "plain", plain)), WanTransformer3DModel).state_dict()
    found = build(read_header(written(dit, tmp_path, wrapped)), WanTransformer3DModel).state_dict()
    assert all(torch.equal(found[key], right[key]) for key in right)


@pytest.mark.parametrize("ending", [".SAFETENSORS", ".SafeTensors", ".PTH", ".Pt"])
def test_endings_count_in_either_case(dit: Path, tmp_path: Path, ending: str) -> None:
    path = written(dit, tmp_path, load_file(dit), ".safetensors" if "s" in ending.lower() else ".pth")
    renamed = path.rename(tmp_path / f"model{ending}")
    right = build(read_header(dit), WanTransformer3DModel).state_dict()
    found = build(read_header(renamed), WanTransformer3DModel).state_dict()
    assert all(torch.equal(found[key], right[key]) for key in right)


def test_gguf_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="GGUF"):
        read_header(tmp_path / "model.gguf")
