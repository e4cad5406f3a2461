"""Files of weights: what they are told to be, what is refused, and what is made of fp8, shards and pickles."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from golden_support import SHARED, Case
from rushes.errors import ModelError
from rushes.families.table import ARCHITECTURES
from rushes.wire.models import ModelSpec
from rushes_service.models.loading.build_plans import build_plans, plan
from rushes_service.models.loading.building import build, empty
from rushes_service.models.loading.configs import variants
from rushes_service.models.loading.files.headers import Entry, Header, read_header
from rushes_service.models.loading.files.kinds import described
from rushes_service.models.loading.files.naming import spellings
from rushes_service.models.loading.files.shapes import Config
from rushes_service.models.loading.from_files import find_source
from rushes_service.models.registry import find
from rushes_service.models.rooms import file_kinds
from single_files_support import recorded_files

CPU = torch.device("cpu")
WAN = Case("wan_t2v")
CLASS = "WanTransformer3DModel"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The recorded Wan transformer and VAE by flag."""
    return recorded_files(WAN, tmp_path / "files")


def weights_of(path: str | Path) -> dict[str, torch.Tensor]:
    return build(read_header(Path(path)), WanTransformer3DModel).state_dict()


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def rewritten(path: str, name: str, tensors: dict[str, torch.Tensor]) -> Path:
    """Another file with the configuration of the one at `path`."""
    target = Path(path).with_name(name)
    target.with_suffix(".config.json").write_text(Path(path).with_suffix(".config.json").read_text())
    if target.suffix == ".safetensors":
        save_file(tensors, target)
    return target


@pytest.mark.parametrize("nested", [None, "module", "state_dict"])
def test_a_pickled_state_dict_is_the_same_model(files, nested):
    tensors = load_file(files["dit"])
    target = rewritten(files["dit"], "dit.pth", tensors)
    torch.save(tensors if nested is None else {nested: tensors, "step": 3}, target)
    assert same(weights_of(target), weights_of(files["dit"]))


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(files, tmp_path):
    class Bomb:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "exploded",))

    target = rewritten(files["dit"], "dit.pt", {})
    torch.save({"module": load_file(files["dit"]), "extra": Bomb()}, target)
    with pytest.raises(ModelError, match="convert it to safetensors"):
        weights_of(target)
    assert not (tmp_path / "exploded").exists()


def test_a_bare_pickle_is_no_model(tmp_path):
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelError, match=r"x\.pth is no file of PyTorch's"):
        read_header(tmp_path / "x.pth")


def test_any_shard_stands_for_all(files):
    tensors = load_file(files["dit"])
    names = sorted(tensors)
    shards = [
        rewritten(files["dit"], f"dit-0000{number}-of-00002.safetensors", {name: tensors[name] for name in part})
        for number, part in ((1, names[:40]), (2, names[40:]))
    ]
    assert same(weights_of(shards[0]), weights_of(files["dit"]))
    assert same(weights_of(shards[1]), weights_of(files["dit"]))
    shards[0].unlink()
    with pytest.raises(ModelError, match="1 are missing: dit-00001-of-00002"):
        weights_of(shards[1])


@pytest.mark.parametrize("kind", ["plain", "tensor", "rows", "blocks", "comfyui"])
def test_fp8_is_turned_back_into_what_it_stands_for(files, kind):
    tensors = load_file(files["dit"])
    wanted, stored = weights_of(files["dit"]), dict(tensors)
    for name in [name for name in tensors if name.endswith(("attn.q.weight", "ffn.0.weight"))]:
        stored |= quantized(name, tensors[name], kind)
    if kind == "comfyui":
        stored["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    found = weights_of(rewritten(files["dit"], "fp8.safetensors", stored))
    for name, tensor in wanted.items():
        lost = 0.002 * float(tensor.abs().max())  # of what is far smaller than the largest number
        assert torch.allclose(found[name], tensor, atol=lost, rtol=0.07), name


def quantized(name: str, tensor: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
    """A weight in fp8, with the scale that `kind` has."""
    if kind == "plain":
        return {name: tensor.to(torch.float8_e4m3fn)}
    blocks = tensor.reshape({"blocks": (len(tensor), 4, -1), "rows": (len(tensor), 1, -1)}.get(kind, (1, 1, -1)))
    scale = blocks.abs().amax(dim=-1, keepdim=True) / 448
    small = (blocks / scale).to(torch.float8_e4m3fn).reshape(tensor.shape)
    shape = {"blocks": scale.shape, "rows": (len(tensor), 1)}.get(kind, (1,))
    key = name.replace(".weight", ".weight_scale" if kind == "comfyui" else ".scale_weight")
    return {name: small, key: scale.reshape(shape).contiguous()}


def test_precisions_are_those_of_a_directory(files, tmp_path):
    whole = build(read_header(Path(files["dit"])), WanTransformer3DModel)
    whole.save_pretrained(tmp_path / "model")
    wanted = WanTransformer3DModel.from_pretrained(tmp_path / "model", torch_dtype=torch.bfloat16).state_dict()
    found = build(read_header(Path(files["dit"])), WanTransformer3DModel, torch.bfloat16).state_dict()
    assert {name: tensor.dtype for name, tensor in found.items()} == {n: t.dtype for n, t in wanted.items()}
    assert same(found, wanted)


@pytest.mark.parametrize(
    ("flag", "file", "says"),
    [
        ("--vae", "dit", r"--vae .*: this is a Wan transformer \(text to video\); --vae needs Wan's VAE"),
        ("--dit", "vae", r"--dit .*: this is Wan's VAE; --dit needs a Wan transformer. Give this file with --vae"),
        ("--t5", "vae", r"--t5 .*: this is Wan's VAE; --t5 needs the text encoder UMT5"),
    ],
)
def test_a_file_in_the_wrong_flag_is_told_what_it_looks_like(files, flag, file, says):
    model = ModelSpec(architecture="wan2.1-t2v", **{flag[2:]: files[file]})
    with pytest.raises(ModelError, match=says):
        find(model.architecture)(model, CPU, torch.float32)


def test_another_familys_file_is_told_from_this_familys(files):
    model = ModelSpec(architecture="wan2.1-t2v", vae=str(SHARED / "hv_vae.safetensors"))
    with pytest.raises(ModelError, match="this is HunyuanVideo's VAE; --vae needs Wan's VAE"):
        find(model.architecture)(model, CPU, torch.float32)


def test_a_lora_is_no_base_model():
    model = ModelSpec(architecture="wan2.1-t2v", dit=str(WAN.lora))
    with pytest.raises(ModelError, match="this is a LoRA, and no base model"):
        find(model.architecture)(model, CPU, torch.float32)


def test_a_transformer_of_another_kind_of_wan_is_refused(files):
    model = ModelSpec(architecture="wan2.1-i2v", dit=files["dit"], vae=files["vae"])
    base = find(model.architecture)(model, CPU, torch.float32)
    with pytest.raises(ModelError, match=r"dit\.safetensors takes 16 channels \(text to video\)"):
        base.load()


def test_a_part_that_is_nowhere_is_named_with_the_flag_that_gives_it(files):
    model = ModelSpec(architecture="wan2.1-t2v", dit=files["dit"])
    base = find(model.architecture)(model, CPU, torch.float32)
    with pytest.raises(ModelError, match="no vae: give its file with --vae, or fix this: Wan-AI/"):
        base.load()


def test_a_tokenizer_that_is_nowhere_is_named_with_its_flag(files):
    spec = ARCHITECTURES["wan2.1-t2v"]
    source = find_source(ModelSpec(architecture=spec.name, **files), spec, ("WanPipeline",), ())
    with pytest.raises(ModelError, match="no tokenizer: give its directory with --tokenizer1"):
        source.component("tokenizer")


def test_a_flag_of_another_family_is_refused(files):
    model = ModelSpec(architecture="wan2.1-t2v", clip=files["dit"])
    with pytest.raises(ModelError, match=r"--clip is for another family: wan2\.1-t2v takes --dit, --vae, --t5"):
        find(model.architecture)(model, CPU, torch.float32)


@pytest.mark.parametrize("path", ["/not/here", "~no-such-user/x"])
@pytest.mark.parametrize("flag", ["dit", "tokenizer1"])
def test_a_path_that_is_not_there_is_named(flag, path):
    model = ModelSpec(architecture="wan2.1-t2v", **{flag: path})
    with pytest.raises(ModelError, match=f"--{flag} {path}: there is no such"):
        find(model.architecture)(model, CPU, torch.float32)


def test_a_file_cut_short_is_refused(files):
    path = Path(files["dit"])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="is cut short"):
        read_header(path)


def test_missing_and_unknown_tensors_are_named(files):
    tensors = load_file(files["dit"])
    tensors["ref_conv.weight"] = torch.zeros(2, 2)
    with pytest.raises(ModelError, match=r"holds 1 \(ref_conv\.weight\) tensors that"):
        weights_of(rewritten(files["dit"], "more.safetensors", tensors))
    del tensors["ref_conv.weight"], tensors["blocks.1.ffn.2.bias"]
    with pytest.raises(ModelError, match=r"lacks 1 \(blocks\.1\.ffn\.net\.2\.bias\) of"):
        weights_of(rewritten(files["dit"], "less.safetensors", tensors))


def test_a_size_that_nobody_published_needs_a_configuration(files):
    Path(files["dit"]).with_suffix(".config.json").unlink()
    with pytest.raises(ModelError, match=r"put its diffusers config\.json beside it, as dit\.config\.json"):
        weights_of(files["dit"])


def test_a_configuration_of_another_model_is_refused(files):
    config = Path(files["dit"]).with_suffix(".config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "ffn_dim": 64}))
    with pytest.raises(ModelError, match="says ffn_dim 64, the file has 48"):
        weights_of(files["dit"])


def test_a_files_fingerprint_is_its_content_and_place(files):
    path = Path(files["dit"])
    before = read_header(path).fingerprint
    assert read_header(path).fingerprint == before
    tensors = load_file(path)
    tensors["blocks.0.ffn.0.weight"] = tensors["blocks.0.ffn.0.weight"].half()
    save_file(tensors, path)
    assert read_header(path).fingerprint != before


@pytest.mark.parametrize("kind", build_plans())
def test_every_published_variant_is_told_from_its_shapes_alone(kind, tmp_path):
    build_plan = build_plans()[kind]
    for name, config in variants(kind).items():
        header = full_size_header(kind, config, tmp_path / "full.safetensors")
        found = plan(header, build_plan)
        assert found.model == name
        assert found.config == config


def full_size_header(kind: str, config: Config, path: Path) -> Header:
    """What the header of a published file says, in the names of its release; nothing is stored."""
    with init_empty_weights(include_buffers=False):
        model = empty(getattr(diffusers, kind, None) or getattr(transformers, kind), config)
    rule, shapes = build_plans()[kind].rule(config), {}
    for parameter, tensor in model.state_dict().items():
        key, part = next(iter(spellings(parameter, rule)))
        rows = shapes.get(key, (0,))[0] if part.isdigit() else 0
        shapes[key] = (rows + tensor.shape[0], *tensor.shape[1:]) if tensor.dim() else ()
    return Header(path, (path,), {key: Entry("BF16", shape, path) for key, shape in shapes.items()})


def test_file_kinds_tell_the_recorded_files_apart(tmp_path):
    seen = {
        "Wan's VAE": SHARED / "wan_vae.safetensors",
        "HunyuanVideo's VAE": SHARED / "hv_vae.safetensors",
        "the VAE of an image model": SHARED / "flux_ae.safetensors",
        "a FramePack transformer": SHARED / "framepack_dit.safetensors",
        "a Wan transformer (Fun-Control)": Case("wan_fun_control_t2v").directory / "dit.safetensors",
        "a Wan transformer (image to video)": Case("wan_i2v").directory / "dit.safetensors",
        "a HunyuanVideo or SkyReels transformer": Case("skyreels_i2v").directory / "dit.safetensors",
        "a FLUX transformer": Case("flux_kontext").directory / "dit.safetensors",
    }
    assert {title: described(read_header(path)) for title, path in seen.items()} == {title: title for title in seen}


def test_every_file_kind_is_a_familys_and_the_other_way_round():
    wanted = {kind for spec in ARCHITECTURES.values() for file in spec.files for kind in file.kinds}
    assert wanted == {kind.name for kind in file_kinds()}
