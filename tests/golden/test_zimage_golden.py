"""Z-Image is the reference sampler's: from prompt files to latents and pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golden_files_support import expected, recorded_engine, recorded_model, recorded_runs, sigmas_of
from golden_support import Case, distance, sample, video
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.zimage.t2i import initial_noise

CASE = Case("zimage")
LATENTS_TOLERANCE = 1e-4
PICTURE_TOLERANCE = 1e-4
"""Sequences padded to 32 tokens are 0.69 off, diffusers' own noise levels 0.27."""

AS_SHIPPED = "asis_bf16"
RUNS = recorded_runs(CASE, but=(AS_SHIPPED,))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return recorded_model(CASE, "z-image", tmp_path_factory.mktemp("zimage"), "zimage_ae")


@pytest.fixture(scope="module")
def engine(model: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine_for(model, tmp_path_factory.mktemp("cache"))


def engine_for(model: ModelSpec, cache: Path) -> Engine:
    recorded, prompt = CASE.tensors("embeds"), CASE.prompt()
    texts = {prompt.prompt: "", str(prompt.negative_prompt): "negative_", "": "default_negative_"}
    found = {
        text: {"embeds": recorded[f"{prefix}cap_feats"][recorded[f"{prefix}cap_mask"]]}
        for text, prefix in texts.items()
    }
    return recorded_engine(CASE, model, cache, found)


@pytest.mark.parametrize("run", RUNS)
def test_latents_and_picture_are_the_references(engine, model, run):
    wanted = expected(CASE, run)
    denoised = sample(engine, model, CASE.prompt(RUNS[run]), CASE.lora if run == "lora" else None)
    assert distance(denoised.latents, wanted["final_latents"]) <= LATENTS_TOLERANCE
    if "video" in wanted:
        assert distance(video(denoised), wanted["video"]) <= PICTURE_TOLERANCE
    assert torch.equal(sigmas_of(denoised), wanted["sigmas"])
    assert torch.equal(initial_noise(denoised.parameters, torch.device("cpu")), CASE.expected["noise"])


def test_bfloat16_rounds_about_as_the_reference_does(model, tmp_path):
    asked = model.model_copy(update={"dtype": "bfloat16"})
    denoised = sample(engine_for(asked, tmp_path), asked, CASE.prompt())
    assert torch.equal(CASE.expected["noise"], CASE.expected[f"{AS_SHIPPED}.noise_as_drawn"])
    assert distance(denoised.latents, CASE.expected[f"{AS_SHIPPED}.final_latents"]) <= 0.3


@pytest.mark.parametrize(
    "change", [{"seed": 78}, {"discrete_flow_shift": 3.1}, {"cfg_scale": 3.1}, {"lora_multiplier": 0.0}]
)
def test_the_tolerance_tells_right_from_wrong(engine, model, change):
    denoised = sample(engine, model, CASE.prompt().model_copy(update=change), CASE.lora)
    assert distance(denoised.latents, CASE.expected["lora.final_latents"]) > 20 * LATENTS_TOLERANCE
