"""Directories with weights of several variants, or of one alone: those are read that diffusers reads."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, WanTransformer3DModel

from engine_support import Recorder, make_job
from pipeline_support import bare, drawn, pixels, spec_of
from rushes.errors import ConfigError, ModelError
from rushes.families.table import ARCHITECTURES
from rushes.training.flags import model_from_args
from rushes_service.doctor.files import check_model
from rushes_service.doctor.fit import directory_parts
from rushes_service.doctor.report import Mark
from rushes_service.engine.engine import Engine
from rushes_service.models.generic.tiny import build
from rushes_service.models.loading.directories import loaded
from rushes_service.models.loading.files.variants import PLAIN, choose, unread, variant_of
from rushes_service.models.loading.from_files import find_source
from rushes_service.models.loading.hub import unread_files

SMALL = {"width": 32, "height": 32, "sample_steps": 2}
ASKED = {"width": 32, "height": 32, "num_inference_steps": 2}
ENCODERS = ("text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdxl", tmp_path_factory.mktemp("plain") / "sdxl")


@pytest.fixture(scope="module")
def half(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with fp16 weights alone, as `--variant fp16` downloads it."""
    path = tmp_path_factory.mktemp("half") / "sdxl"
    DiffusionPipeline.from_pretrained(plain, torch_dtype=torch.float16).save_pretrained(path, variant="fp16")
    assert not list(path.rglob("*model.safetensors"))
    return path


@pytest.fixture
def both(plain: Path, half: Path, tmp_path: Path) -> Path:
    """Both, but for the VAE, of which there are plain weights alone."""
    path = tmp_path / "both"
    shutil.copytree(plain, path)
    shutil.copytree(half, path, dirs_exist_ok=True)
    for file in (path / "vae").glob("*.fp16.*"):
        file.unlink()
    return path


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("model.safetensors", PLAIN),
        ("pytorch_model.bin", PLAIN),
        ("model-00001-of-00002.safetensors", PLAIN),
        ("diffusion_pytorch_model.safetensors.index.json", PLAIN),
        ("diffusion_pytorch_model.fp16.safetensors", "fp16"),
        ("diffusion_pytorch_model.non_ema.safetensors", "non_ema"),
        ("model.fp16-00001-of-00002.safetensors", "fp16"),
        ("model.safetensors.index.fp16.json", "fp16"),
        ("diffusion_pytorch_model-00001-of-00002.bf16.safetensors", "bf16"),
        ("diffusion_pytorch_model.safetensors.bf16.index.json", "bf16"),
        ("config.json", None),
        ("tokenizer.model", None),
        ("ema.safetensors", None),
    ],
)
def test_the_variant_is_told_by_the_name_of_the_file(name: str, variant: str | None) -> None:
    assert variant_of(name) == variant


def test_plain_weights_come_first_and_the_only_variant_is_taken() -> None:
    plain, half, brain = "model.safetensors", "model.fp16.safetensors", "model.bf16.safetensors"
    assert choose("here", [plain, half, brain], None) == PLAIN
    assert choose("here", [plain, half, brain], "fp16") == "fp16"
    assert choose("here", [plain, half], "bf16") == PLAIN
    assert choose("here", ["model.safetensors.index.json", half], None) == "fp16"
    assert choose("here", ["tokenizer.json"], "fp16") == PLAIN
    with pytest.raises(ModelError, match="here has weights of bf16 and fp16 only: say which with --variant"):
        choose("here", [half, brain], None)
    with pytest.raises(ModelError, match="--variant fp16: here has weights of bf16 only"):
        choose("here", [brain], "fp16")
    assert unread([plain, half, "config.json"], "fp16") == {plain}
    assert unread([half, brain], None) == set()


@pytest.mark.parametrize("shards", ["one file", "shards", "shards of before"])
def test_a_part_is_what_diffusers_reads_of_it(shards: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 4, "attention_head_dim": 24, "ffn_dim": 256, "num_layers": 2}
    model = WanTransformer3DModel(**sizes, text_dim=32, freq_dim=32, rope_max_seq_len=64)
    model.save_pretrained(tmp_path, variant="ema", max_shard_size="10GB" if shards == "one file" else "300KB")
    if shards == "shards of before":
        index = tmp_path / "diffusion_pytorch_model.safetensors.index.ema.json"
        text = index.read_text()
        for file in tmp_path.glob("*.ema-*"):
            base, _, count = file.name.removesuffix(".safetensors").partition(".ema")
            text = text.replace(file.name, f"{base}{count}.ema.safetensors")
            file.rename(tmp_path / f"{base}{count}.ema.safetensors")
        index.write_text(text)
    found = loaded(tmp_path, WanTransformer3DModel, torch.float32).state_dict()
    wanted = WanTransformer3DModel.from_pretrained(tmp_path, variant="ema").state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert all(torch.equal(found[name], weight) for name, weight in model.state_dict().items())


def test_a_variant_alone_is_sampled_as_diffusers_does_and_the_receipt_says_so(half, tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO, "rushes.worker"):
        made = drawn(half, tmp_path / "cache", **SMALL)
    assert torch.equal(pixels(made), bare(half, variant="fp16", **ASKED))
    assert made.facts()["variants"] == dict.fromkeys(("unet", "vae", *ENCODERS), "fp16")
    assert f"{half / 'unet'} has weights of the variant fp16 alone" in caplog.text


def test_of_both_the_plain_weights_are_read_unless_the_variant_is_asked_for(both, tmp_path) -> None:
    asked = spec_of(both, variant="fp16")
    wanted = {None: bare(both, **ASKED), "fp16": bare(both, variant="fp16", **ASKED)}
    assert not torch.equal(wanted[None], wanted["fp16"])
    # In turn, from one cache of embeddings: those of one variant never serve the other.
    for spec in (spec_of(both), asked, spec_of(both)):
        made = drawn(spec, tmp_path / "cache", **SMALL)
        assert torch.equal(pixels(made), wanted[spec.variant])
        assert ("variants" in made.facts()) is (spec == asked)
    for name in ENCODERS:
        for file in (both / name).glob("*.safetensors"):
            file.unlink()
    for spec in (spec_of(both), asked):
        made = drawn(spec, tmp_path / "cache", **SMALL)
        assert torch.equal(pixels(made), wanted[spec.variant])
        assert any("text_encoder is gone" in warning for warning in made.warnings)


def test_a_variant_that_is_nowhere_is_an_error_that_says_what_there_is(both, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"--variant bf16: no part of .*both has such weights; there are fp16 and pl"):
        drawn(spec_of(both, variant="bf16"), tmp_path / "cache", **SMALL)


def test_other_families_take_the_variant_too_and_refuse_one_that_is_not_there(tiny_wan, tmp_path) -> None:
    copy, engine = tmp_path / "wan", Engine("cpu", tmp_path / "cache")
    shutil.copytree(tiny_wan, copy)
    for file in copy.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    made = [np.stack(list(engine.denoise(make_job(path), Recorder()).frames())) for path in (copy, tiny_wan)]
    assert np.array_equal(*made)
    model = make_job(copy).model.model_copy(update={"variant": "bf16"})
    with pytest.raises(ModelError, match=r"--variant bf16: no part of .*wan has such weights; there are fp16"):
        find_source(model, ARCHITECTURES["wan2.1-t2v"], ("WanPipeline",), ())


def test_of_a_repository_only_what_is_read_is_fetched() -> None:
    weights = ["model.safetensors", "model.fp16.safetensors", "model.fp16.bin"]
    files = ["model_index.json", *(f"{part}/{name}" for part in ENCODERS for name in weights)]
    files += ["unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors"]
    parts = ("text_encoder/*", "unet/*", "vae/*")
    assert unread_files(files, parts, None) == ["text_encoder/model.fp16.safetensors"]
    assert unread_files(files, parts, "fp16") == ["text_encoder/model.safetensors"]


def test_a_repository_of_which_the_variant_alone_is_cached_is_sampled_without_the_hub(
    both, half, tmp_path, monkeypatch
) -> None:
    home = tmp_path / "hub" / "models--own--model"
    snapshot = home / "snapshots" / "abc123"
    shutil.copytree(half, snapshot)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc123")
    # What the repository holds besides, as the hub's client notes it with a download.
    files = [file.relative_to(both).as_posix() for file in both.rglob("*") if file.is_file()]
    listing = {name: {"size": 1, "blob_id": "0" * 40} for name in files}
    (home / "trees").mkdir()
    (home / "trees" / "abc123.json").write_text(json.dumps({"format_version": 1, "files": listing}))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for asked in (None, "fp16"):
        made = drawn(spec_of(Path("own/model"), variant=asked), tmp_path / "cache", **SMALL)
        assert torch.equal(pixels(made), bare(half, variant="fp16", **ASKED))


def test_the_flag_is_a_part_of_the_model_and_no_path() -> None:
    given = {"variant": "fp16", "rushes_model": "owner/model"}
    assert model_from_args(given, "diffusers", None) == spec_of(Path("owner/model"), variant="fp16")
    with pytest.raises(ConfigError, match="variant"):
        model_from_args({**given, "variant": "../fp16"}, "diffusers", None)


def test_the_doctor_counts_what_is_read(plain, half, both) -> None:
    (half / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": {"a": "gone"}}')
    found = {finding.name: finding for finding in check_model(str(half))}
    assert not [finding for finding in found.values() if finding.mark is Mark.FAIL]
    assert "variant fp16" in found["model unet"].found
    assert directory_parts(both) == directory_parts(plain)
    assert directory_parts(both, "fp16")["unet"] == directory_parts(half)["unet"]
    assert Mark.FAIL in {finding.mark for finding in check_model(str(both), "bf16") if finding.name == "variant"}
