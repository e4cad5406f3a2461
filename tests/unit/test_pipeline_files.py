"""Any pipeline of diffusers with its weights in one file: what diffusers' own `from_single_file` makes, to the bit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from pipeline_support import drawn, pixels, pixels_of, spec_of, write_adapter
from release_support import released
from rushes.errors import ModelError
from rushes.training.flags import model_from_args
from rushes_service.models.flux.tiny import clip_encoder, clip_tokenizer
from rushes_service.models.generic.tiny import build, latents_of_four, sdxl
from single_files_support import original_file
from tiny_pipelines import plain_unet

SMALL = {"width": 32, "height": 32, "sample_steps": 2}
ASKED = {"width": 32, "height": 32, "num_inference_steps": 2}
WIDTH = 48
"""Of the second text encoder: the published two differ in width, by which they are told apart in a file."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SDXL directory."""
    directory = tmp_path_factory.mktemp("whole") / "sdxl"
    torch.manual_seed(1)
    pipe = sdxl()
    words = {**pipe.text_encoder_2.config.to_dict(), "hidden_size": WIDTH}
    unet = {**pipe.unet.config, "cross_attention_dim": pipe.text_encoder.config.hidden_size + WIDTH}
    pipe.register_modules(
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig.from_dict(words)).eval(),
        unet=UNet2DConditionModel.from_config(unet).eval(),
    )
    pipe.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def configs(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without any weights."""
    directory = tmp_path_factory.mktemp("configs") / "sdxl"
    shutil.copytree(whole, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    return directory


@pytest.fixture(scope="module")
def file(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as one file."""
    path = tmp_path_factory.mktemp("file") / "sdxl.safetensors"
    save_file(released(StableDiffusionXLPipeline.from_pretrained(whole)), path)
    return path


def from_file(kind: type[DiffusionPipeline], path: Path, directory: Path, **parts: object) -> torch.Tensor:
    """What diffusers makes of a file."""
    pipe = kind.from_single_file(
        str(path), config=str(directory), local_files_only=True, torch_dtype=torch.float32, **parts
    )
    for name, part in pipe.components.items():
        for weight in part.parameters() if isinstance(part, torch.nn.Module) and name not in parts else ():
            weight.data = weight.data.clone()  # in a mapped file they lie at odd addresses, see `pixels_of`
    return pixels_of(pipe, **ASKED)


def test_a_whole_sdxl_in_a_file_is_sampled_as_diffusers_does_with_its_configuration(file, configs, tmp_path) -> None:
    made = drawn(spec_of(configs, dit=str(file)), tmp_path / "cache", **SMALL)
    wanted = from_file(StableDiffusionXLPipeline, file, configs)
    assert torch.equal(pixels(made), wanted)
    assert wanted.std() > 0.01
    assert made.facts()["model"]["dit"] == str(file)


def test_a_pickled_stable_diffusion_is_sampled_without_the_safety_checker_that_its_index_names(tmp_path) -> None:
    words = clip_tokenizer()
    checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    parts = {"vae": latents_of_four(), "text_encoder": clip_encoder(words), "tokenizer": words, "unet": plain_unet()}
    pipe = StableDiffusionPipeline(**parts, **checker, scheduler=DDIMScheduler(clip_sample=False))
    pipe.save_pretrained(tmp_path / "sd")
    torch.save({"state_dict": released(pipe), "global_step": 3}, tmp_path / "sd.ckpt")
    for weights in (tmp_path / "sd").rglob("*.safetensors"):
        weights.unlink()
    wanted = from_file(StableDiffusionPipeline, tmp_path / "sd.ckpt", tmp_path / "sd")
    index = tmp_path / "sd" / "model_index.json"
    named = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    index.write_text(json.dumps({**json.loads(index.read_text()), **named}))
    made = drawn(spec_of(tmp_path / "sd", dit=str(tmp_path / "sd.ckpt")), tmp_path / "cache", **SMALL)
    assert torch.equal(pixels(made), wanted)


def test_what_a_file_lacks_is_the_directorys_and_embeddings_are_kept_apart(file, whole, tmp_path) -> None:
    """The file of another model, of which the UNet alone, then the text encoders, too, are there."""
    tensors = {name: tensor * 1.01 for name, tensor in load_file(file).items()}
    unet = {name: tensor for name, tensor in tensors.items() if name.startswith("model.diffusion_model.")}
    words = unet | {name: tensor for name, tensor in tensors.items() if name.startswith("conditioner.")}
    found = []
    for name, part in {"unet": unet, "words": words}.items():
        save_file(part, tmp_path / f"{name}.safetensors")
        spec = spec_of(whole, dit=str(tmp_path / f"{name}.safetensors"))
        found.append(pixels(drawn(spec, tmp_path / "cache", **SMALL)))
    directory = DiffusionPipeline.from_pretrained(whole)
    encoders = {part: getattr(directory, part) for part in ("text_encoder", "text_encoder_2")}
    wanted = from_file(StableDiffusionXLPipeline, tmp_path / "unet.safetensors", whole, vae=directory.vae, **encoders)
    assert torch.equal(found[0], wanted)
    wanted = from_file(StableDiffusionXLPipeline, tmp_path / "words.safetensors", whole, vae=directory.vae)
    assert torch.equal(found[1], wanted)
    assert not torch.equal(*found)


def test_a_vae_may_be_a_file_of_its_own(file, whole, tmp_path) -> None:
    begin = "first_stage_model."
    vae = {name.removeprefix(begin): part * 1.01 for name, part in load_file(file).items() if name.startswith(begin)}
    save_file(vae, tmp_path / "vae.safetensors")
    made = drawn(spec_of(whole, vae=str(tmp_path / "vae.safetensors")), tmp_path / "cache", **SMALL)
    pipe = DiffusionPipeline.from_pretrained(whole)
    other = type(pipe.vae).from_single_file(str(tmp_path / "vae.safetensors"), config=str(whole), subfolder="vae")
    pipe.register_modules(vae=other)
    assert torch.equal(pixels(made), pixels_of(pipe, **ASKED))
    assert not torch.equal(pixels(made), pixels(drawn(whole, tmp_path / "cache", **SMALL)))


def released_flux(model: Path, directory: Path) -> Path:
    """The transformer as its publishers have it, who call the weights of norms of attention scales."""
    path = original_file(model / "transformer", directory / "dev.safetensors")
    renamed = {
        re.sub(r"(query|key)_norm\.weight", r"\1_norm.scale", name): part for name, part in load_file(path).items()
    }
    save_file(renamed, path)
    return path


def test_flux_and_its_vae_in_files_are_sampled_and_take_a_lora(tmp_path) -> None:
    model = build("flux", tmp_path / "flux")
    vae = original_file(model / "vae", tmp_path / "ae.safetensors")
    files = {"dit": str(released_flux(model, tmp_path)), "vae": str(vae)}
    wanted = pixels(drawn(model, tmp_path / "cache", **SMALL))
    for part in ("transformer", "vae"):
        (model / part / "diffusion_pytorch_model.safetensors").rename(tmp_path / f"{part}.gone")
    assert torch.equal(pixels(drawn(spec_of(model, **files), tmp_path / "cache", **SMALL)), wanted)
    for part in ("transformer", "vae"):
        (tmp_path / f"{part}.gone").rename(model / part / "diffusion_pytorch_model.safetensors")
    adapter = write_adapter(tmp_path / "lora.safetensors", model)
    with_lora = pixels(drawn(spec_of(model, **files), tmp_path / "cache", adapter, **SMALL))
    assert torch.equal(with_lora, pixels(drawn(model, tmp_path / "cache", adapter, **SMALL)))


def changed(path: Path, tmp_path: Path, change: str) -> Path:
    """A file that is no good."""
    tensors = load_file(path)
    if change == "cut":
        del tensors["model.diffusion_model.out.2.weight"]
    if change == "scaled":
        name = "model.diffusion_model.out.2"
        tensors |= {f"{name}.weight": tensors[f"{name}.weight"].to(torch.float8_e4m3fn)}
        tensors |= {f"{name}.scale_weight": torch.ones(1)}
    if change == "lora":
        tensors = {"lora_unet_out_2.lora_down.weight": torch.ones(1, 1)}
    if change == "missing":
        return tmp_path / "nowhere.safetensors"
    save_file(tensors, tmp_path / "bad.safetensors")
    return tmp_path / "bad.safetensors"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("cut", r"bad.safetensors lacks 1 \(conv_out.weight\) weights of a UNet2DConditionModel"),
        ("scaled", "is scaled fp8 .*scale_weight"),
        ("lora", "--dit .*bad.safetensors is a LoRA, and no base model"),
        ("missing", "--dit .*nowhere.safetensors: there is no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_that_says_why(change, says, file, whole, tmp_path) -> None:
    with pytest.raises(ModelError, match=says):
        drawn(spec_of(whole, dit=str(changed(file, tmp_path, change))), tmp_path / "cache", **SMALL)


def test_a_file_of_another_model_than_the_directory_is_an_error(file, tmp_path) -> None:
    model = build("flux", tmp_path / "flux")
    with pytest.raises(ModelError, match=r"sdxl.safetensors lacks .* tensors of a FluxTransformer2DModel as"):
        drawn(spec_of(model, dit=str(file)), tmp_path / "cache", **SMALL)
    dev = released_flux(model, tmp_path)
    config = model / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"guidance_embeds": true', '"guidance_embeds": false'))
    with pytest.raises(ModelError, match=r"dev.safetensors holds 4 \(guidance_in.* has no place for"):
        drawn(spec_of(model, dit=str(dev)), tmp_path / "cache", **SMALL)


def test_the_flags_that_name_files_count_for_any_pipeline() -> None:
    given = {"dit": "sdxl.safetensors", "vae": "vae.safetensors", "t5": "t5.safetensors", "rushes_model": "own/model"}
    wanted = spec_of(Path("own/model"), dit="sdxl.safetensors", vae="vae.safetensors")
    assert model_from_args(given, "diffusers", None) == wanted
