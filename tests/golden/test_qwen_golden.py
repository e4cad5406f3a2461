"""Qwen-Image and its editing models are the reference sampler's: from prompt files to latents and pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golden_files_support import expected, recorded_engine, recorded_model, recorded_runs, sigmas_of
from golden_support import Case, distance, sample, video
from rushes.families.parameters import resolve
from rushes.wire.jobs import VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.qwen.conditioned import control_latents
from rushes_service.models.qwen.edit import TEXT_AREA, control_pixels
from rushes_service.models.qwen.t2i import initial_noise
from rushes_service.models.registry import find

CASE = Case("qwen_image")
LATENTS_TOLERANCE = 1e-4
PICTURE_TOLERANCE = 1e-4
"""The published scheduler is 0.28 off, one without the last noise level of 0.02 0.23."""

AS_SHIPPED = "asis_bf16"
"""Everything in bfloat16; a bound of sanity, see `test_bfloat16_rounds_about_as_the_reference_does`."""

RUNS = recorded_runs(CASE, but=(AS_SHIPPED,))
DEFAULT_NEGATIVE = " "


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return recorded_model(CASE, "qwen-image", tmp_path_factory.mktemp("qwen"), "qwen_vae")


@pytest.fixture(scope="module")
def engine(model: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine_for(model, tmp_path_factory.mktemp("cache"))


def engine_for(model: ModelSpec, cache: Path) -> Engine:
    recorded, prompt = CASE.tensors("embeds"), CASE.prompt()
    texts = {
        prompt.prompt: recorded["vl_embed"],
        str(prompt.negative_prompt): recorded["negative_vl_embed"],
        DEFAULT_NEGATIVE: recorded["default_negative_vl_embed"],
    }
    return recorded_engine(CASE, model, cache, {text: {"embeds": embeds} for text, embeds in texts.items()})


@pytest.mark.parametrize("run", RUNS)
def test_latents_and_picture_are_the_references(engine, model, run):
    wanted = expected(CASE, run)
    denoised = sample(engine, model, CASE.prompt(RUNS[run]), CASE.lora if run == "lora" else None)
    assert distance(denoised.latents, wanted["final_latents"]) <= LATENTS_TOLERANCE
    if "video" in wanted:
        assert distance(video(denoised), wanted["video"]) <= PICTURE_TOLERANCE
    assert torch.equal(sigmas_of(denoised), wanted["sigmas"])
    assert torch.equal(initial_noise(denoised.parameters, torch.device("cpu"), torch.float32), CASE.expected["noise"])


def test_bfloat16_rounds_about_as_the_reference_does(model, tmp_path):
    asked = model.model_copy(update={"dtype": "bfloat16"})
    engine = engine_for(asked, tmp_path)
    recorded, prompt = CASE.tensors("embeds"), CASE.prompt()
    denoised = sample(engine, asked, prompt)
    noise = initial_noise(denoised.parameters, torch.device("cpu"), torch.bfloat16)
    assert torch.equal(noise.float(), CASE.expected[f"{AS_SHIPPED}.noise_as_drawn"])
    assert recorded["vl_embed"].ndim == 3
    assert distance(denoised.latents, CASE.expected[f"{AS_SHIPPED}.final_latents"]) <= 0.3


@pytest.mark.parametrize(
    "change", [{"seed": 1235}, {"discrete_flow_shift": 2.3}, {"cfg_scale": 3.6}, {"lora_multiplier": 0.0}]
)
def test_the_tolerance_tells_right_from_wrong(engine, model, change):
    denoised = sample(engine, model, CASE.prompt().model_copy(update=change), CASE.lora)
    assert distance(denoised.latents, CASE.expected["lora.final_latents"]) > 20 * LATENTS_TOLERANCE


EDITS = {"qwen_edit": "edit", "qwen_edit_2509": "edit-2509", "qwen_edit_2511": "edit-2511"}
"""Cases of the editing models, and their `--model_version`."""

EVERY_8TH = slice(None, None, 8)
"""Rows and columns of control latents that are recorded."""


@pytest.fixture(scope="module", params=EDITS)
def edit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, ModelSpec, Engine]:
    """A case, its model, and an engine whose cache holds the recorded embeddings, with the pictures and without."""
    case, version = Case(request.param), EDITS[request.param]
    model = recorded_model(case, "qwen-image-edit", tmp_path_factory.mktemp("edit"), "qwen_vae", model_version=version)
    engine = Engine("cpu", tmp_path_factory.mktemp("cache"))
    base = find("qwen-image-edit")(model, engine.device, torch.float32)
    recorded, prompt = case.tensors("embeds"), case.prompt()
    pictures = [control_pixels(path, TEXT_AREA) for path in prompt.control_image_path]
    for text, name in (
        (prompt.prompt, "vl_embed"),
        (str(prompt.negative_prompt), "negative_vl_embed"),
        (DEFAULT_NEGATIVE, "default_negative_vl_embed"),
    ):
        for key in (base.text_key(text), base.image_key(text, pictures)):
            engine.conditioning.write(key, {"embeds": recorded[name]})
    return case, model, engine


def test_edits_are_the_references(edit):
    case, model, engine = edit
    for run, file in recorded_runs(case).items():
        wanted = expected(case, run)
        denoised = sample(engine, model, case.prompt(file), case.lora if run == "lora" else None)
        assert distance(denoised.latents, wanted["final_latents"]) <= LATENTS_TOLERANCE, run
        if "video" in wanted:
            assert distance(video(denoised), wanted["video"]) <= PICTURE_TOLERANCE, run
        assert torch.equal(sigmas_of(denoised), wanted["sigmas"])


def test_control_images_are_encoded_as_recorded(edit):
    case, _, engine = edit
    base = engine.loaded.base
    parameters, _ = resolve(case.prompt(), base.spec)
    found = control_latents(base.encode_images(parameters, {}, VaeOptions()))
    for index, latents in enumerate(found):
        part = latents[..., EVERY_8TH, EVERY_8TH]
        assert distance(part, case.expected[f"base.control_latents_every8.{index}"]) <= LATENTS_TOLERANCE
    assert len(found) == len(parameters.control_image_path)


LAYERED = Case("qwen_layered")


@pytest.mark.parametrize("run", recorded_runs(LAYERED))
def test_layers_are_the_references(run, tmp_path):
    model = recorded_model(LAYERED, "qwen-image-layered", tmp_path / "model", "qwen_vae_rgba")
    recorded, prompt, wanted = LAYERED.tensors("embeds"), LAYERED.prompt(), expected(LAYERED, run)
    texts = {
        prompt.prompt: recorded["vl_embed"],
        str(prompt.negative_prompt): recorded["negative_vl_embed"],
        DEFAULT_NEGATIVE: recorded["default_negative_vl_embed"],
    }
    engine = recorded_engine(LAYERED, model, tmp_path, {text: {"embeds": embeds} for text, embeds in texts.items()})
    asked = LAYERED.prompt(LAYERED.facts["runs"][run]["prompts_file"])
    denoised = sample(engine, model, asked, LAYERED.lora if run == "lora" else None)
    assert distance(denoised.latents, wanted["final_latents"]) <= LATENTS_TOLERANCE
    assert torch.equal(sigmas_of(denoised), wanted["sigmas"])
    if "video" in wanted:
        layers = torch.stack(video(denoised)[0].chunk(denoised.parameters.layers, dim=-2))
        assert distance(layers, wanted["video"]) <= PICTURE_TOLERANCE
        assert torch.equal(
            initial_noise(denoised.parameters, torch.device("cpu"), torch.float32), LAYERED.expected["noise"]
        )
        base = engine.loaded.base
        shown = control_latents(base.encode_images(denoised.parameters, {}, VaeOptions()))[0]
        assert distance(shown[..., EVERY_8TH, EVERY_8TH], LAYERED.expected["base.control_latents_every8.0"]) <= 1e-5
