"""What is special about Qwen-Image and Z-Image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from family_support import tiny_model_spec, tiny_options
from golden_support import sample
from rushes.errors import ArchitectureError, ModelError, PromptError
from rushes.families.parameters import resolve
from rushes.families.table import ARCHITECTURES
from rushes.prompts.files import load_prompts
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.llm.qwen3 import ZImageText
from rushes_service.models.llm.qwen_vl import QwenImageText
from rushes_service.models.loading.from_repo import ModelSource

AROUND_QWEN_IMAGE = 5
"""Tokens behind the text: the end of the user's turn and the beginning of the assistant's."""

AROUND_Z_IMAGE = 8
"""Tokens around the text: nothing of the chat is cut off."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


def drawn(model: ModelSpec, directory: Path, cache: str = "cache", **options: Any) -> Any:
    asked = {**tiny_options(ARCHITECTURES[model.architecture], directory), **options}
    return sample(Engine("cpu", directory / cache), model, Prompt(prompt="a red ball", **asked))


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("qwen-image", {"discrete_flow_shift": 0.0}, "--fs 0 leaves nothing to denoise; qwen-image"),
        ("qwen-image", {"sample_steps": 1}, "--s 1 cannot be sampled: qwen-image"),
        ("z-image", {"discrete_flow_shift": 0.0}, "--fs 0 leaves nothing to denoise; Z-Image"),
    ],
)
def test_what_is_nan_in_the_reference_is_an_error_before_anything_is_loaded(family, options, message, tmp_path):
    with pytest.raises(PromptError, match=message):
        drawn(ModelSpec(architecture=family, model=str(tmp_path / "no-model")), tmp_path, **options)


def test_z_image_samples_a_single_step(directory):
    assert torch.isfinite(drawn(tiny_model_spec("z-image", directory), directory, sample_steps=1).latents).all()


def test_null_in_a_json_file_is_a_shift_that_grows_with_the_picture(tmp_path):
    file = tmp_path / "prompts.json"
    file.write_text('[{"prompt": "a", "discrete_flow_shift": null}, {"prompt": "a"}]')
    grown, fixed = load_prompts(file)
    assert (grown.dynamic_shift, fixed.dynamic_shift) == (True, False)
    shifts = [resolve(prompt, ARCHITECTURES["qwen-image"])[0].discrete_flow_shift for prompt in (grown, fixed)]
    assert shifts == [None, 14.5]
    parameters, warnings = resolve(grown, ARCHITECTURES["z-image"])
    assert (parameters.discrete_flow_shift, warnings) == (3.0, ("dynamic_shift is ignored by z-image",))


@pytest.mark.parametrize("family", ["qwen-image", "z-image"])
@pytest.mark.parametrize(("scale", "guided"), [(None, True), (1.5, True), (1.0, False), (0.5, False)])
def test_guidance_runs_above_one(family, scale, guided):
    parameters, _ = resolve(Prompt(prompt="a", cfg_scale=scale), ARCHITECTURES[family])
    assert parameters.use_cfg is guided


def test_a_version_of_another_family_is_told_which():
    messages = {
        "edit-0000": "qwen-image knows original",
        "original": "z-image has no versions; it is one of qwen-image",
    }
    for version, message in messages.items():
        family = "qwen-image" if "edit" in version else "z-image"
        with pytest.raises(ArchitectureError, match=message):
            spec = ModelSpec(architecture=family, model_version=version)
            resolve(Prompt(prompt="a"), ARCHITECTURES[family], spec)


def test_turbo_with_guidance_is_a_warning(directory, tmp_path):
    model = tiny_model_spec("z-image", directory)
    turbo = model.model_copy(update={"model": str((tmp_path / "Z-Image-Turbo").absolute())})
    Path(str(turbo.model)).symlink_to(str(model.model))
    assert any("--l 1 --s 8" in warning for warning in drawn(turbo, directory).warnings)
    assert drawn(turbo, directory, cfg_scale=1.0).warnings == ()
    assert drawn(model, directory).warnings == ()


def test_texts_lose_the_published_number_of_tokens(directory):
    text = "a red ball"
    for family, kind, around in (
        ("qwen-image", QwenImageText, AROUND_QWEN_IMAGE),
        ("z-image", ZImageText, AROUND_Z_IMAGE),
    ):
        source = ModelSource(Path(str(tiny_model_spec(family, directory).model)), None)
        embeds = kind(source, torch.device("cpu"), torch.float32).encode(text)["embeds"]
        assert embeds.shape[-2] == len(text) + around


@pytest.mark.parametrize(("family", "flag"), [("qwen-image", "fp8_vl"), ("z-image", "fp8_llm")])
def test_an_encoder_in_float8_is_another_and_cached_apart(family, flag, directory):
    model = tiny_model_spec(family, directory)
    plain, rounded = (drawn(each, directory, "fp8").latents for each in (model, model.model_copy(update={flag: True})))
    assert 0 < float((plain - rounded).abs().max()) < 1


@pytest.mark.parametrize("family", ["qwen-image", "z-image"])
def test_a_checkpoint_of_a_full_fine_tune_replaces_the_transformer(family, directory, tmp_path):
    model = tiny_model_spec(family, directory)
    (weights,) = (Path(str(model.model)) / "transformer").glob("*.safetensors")
    tuned = {name: tensor * 1.05 for name, tensor in load_file(weights).items()}
    save_file(tuned, tmp_path / "tuned-step00000123.safetensors", metadata={"ss_base_model_version": family})
    save_file(tuned, tmp_path / "dit.safetensors")
    (tmp_path / "dit.config.json").write_text((weights.parent / "config.json").read_text())
    prompt = Prompt(prompt="a red ball", **tiny_options(ARCHITECTURES[family], directory))
    engine = Engine("cpu", directory / "cache")
    found = sample(engine, model, prompt, tmp_path / "tuned-step00000123.safetensors").latents
    wanted = sample(engine, model.model_copy(update={"dit": str(tmp_path / "dit.safetensors")}), prompt).latents
    assert float((found - wanted).abs().max()) <= 1e-5
    assert float((found - sample(engine, model, prompt).latents).abs().max()) > 1e-3


def test_a_file_of_2511_is_no_qwen_image(directory, tmp_path):
    model = tiny_model_spec("qwen-image", directory)
    (weights,) = (Path(str(model.model)) / "transformer").glob("*.safetensors")
    named = {f"model.diffusion_model.{name}": tensor for name, tensor in load_file(weights).items()}
    save_file({**named, "model.diffusion_model.__index_timestep_zero__": torch.zeros(1)}, tmp_path / "dit.safetensors")
    described = json.loads((weights.parent / "config.json").read_text())
    del described["zero_cond_t"]  # nothing but the sign tells it
    (tmp_path / "dit.config.json").write_text(json.dumps(described))
    edited = model.model_copy(update={"dit": str(tmp_path / "dit.safetensors")})
    with pytest.raises(ModelError, match="is Qwen-Image-Edit-2511: say --architecture qwen-image-edit"):
        drawn(edited, directory)


def test_a_layered_model_is_told_its_family(directory, tmp_path):
    model = tiny_model_spec("qwen-image", directory)
    (weights,) = (Path(str(model.model)) / "transformer").glob("*.safetensors")
    tensors = load_file(weights)
    width = tensors["img_in.weight"].shape[0]
    layered = {**tensors, "time_text_embed.addition_t_embedding.weight": torch.zeros(2, width)}
    save_file(layered, tmp_path / "dit.safetensors")
    described = json.loads((weights.parent / "config.json").read_text())
    flags = {"use_additional_t_cond": True, "use_layer3d_rope": True}
    (tmp_path / "dit.config.json").write_text(json.dumps({**described, **flags}))
    with pytest.raises(ModelError, match="is Qwen-Image-Layered: say --architecture qwen-image-layered"):
        drawn(model.model_copy(update={"dit": str(tmp_path / "dit.safetensors")}), directory)
