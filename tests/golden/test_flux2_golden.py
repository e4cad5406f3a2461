"""FLUX.2 klein and dev are the reference sampler's: from prompt files to latents and pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golden_files_support import expected, recorded_engine, recorded_model, recorded_runs, sigmas_of
from golden_support import Case, distance, sample, video
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.flux2.base import initial_noise

FAMILIES = {"flux2_klein": "flux2-klein", "flux2_dev": "flux2-dev"}
LATENTS_TOLERANCE = 1e-4
PICTURE_TOLERANCE = 1e-4

BFLOAT16_NOISE, AS_SHIPPED = "bf16_noise", "asis_bf16"
"""Runs that compute in float32 what was drawn in bfloat16, and in bfloat16 altogether."""

RUNS = [(name, run) for name in FAMILIES for run in recorded_runs(Case(name), but=(BFLOAT16_NOISE, AS_SHIPPED))]
VERSION = "--model_version"
EMBEDS = ("ctx_vec", "negative_ctx_vec", "negative_ctx_vec_default")


def model_of(case: Case, run: str, directory: Path) -> ModelSpec:
    """The recorded model, in the version of a run."""
    model = recorded_model(case, FAMILIES[case.name], directory, "flux2_ae")
    flags = case.facts["runs"][run]["extra_argv"]
    version = flags[flags.index(VERSION) + 1] if VERSION in flags else None
    return model.model_copy(update={"model_version": version})


def engine_for(case: Case, model: ModelSpec, cache: Path) -> Engine:
    recorded, names = case.tensors("embeds"), case.facts["embeds"]
    return recorded_engine(case, model, cache, {text: {"embeds": recorded[name]} for text, name in names.items()})


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_latents_and_picture_are_the_references(name: str, run: str, tmp_path: Path) -> None:
    case = Case(name)
    wanted, model = expected(case, run), model_of(case, run, tmp_path / "model")
    prompt = case.prompt(case.facts["runs"][run]["prompts_file"])
    lora = case.lora if run.startswith("lora") else None
    denoised = sample(engine_for(case, model, tmp_path / "cache"), model, prompt, lora)
    assert distance(denoised.latents, wanted["final_latents"]) <= LATENTS_TOLERANCE
    if "video" in wanted:
        assert distance(video(denoised), wanted["video"]) <= PICTURE_TOLERANCE
    if "sigmas" in wanted:
        assert torch.equal(sigmas_of(denoised), wanted["sigmas"])
    if "noise" in wanted:
        noise = initial_noise(denoised.parameters, torch.device("cpu"), torch.float32)
        assert torch.equal(noise, wanted["noise"])


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_draws_the_references_noise_and_rounds_about_as_it_does(name: str, tmp_path: Path) -> None:
    case = Case(name)
    model = model_of(case, AS_SHIPPED, tmp_path / "model").model_copy(update={"dtype": "bfloat16"})
    denoised = sample(engine_for(case, model, tmp_path / "cache"), model, case.prompt())
    noise = initial_noise(denoised.parameters, torch.device("cpu"), torch.bfloat16)
    assert torch.equal(noise.float(), expected(case, BFLOAT16_NOISE)["noise"].float())
    assert distance(denoised.latents, expected(case, AS_SHIPPED)["final_latents"].float()) <= 0.1


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("change", [{"seed": 1235}, {"discrete_flow_shift": 3.0}, {"guidance_scale": 3.6}])
def test_the_tolerance_tells_right_from_wrong(name: str, change: dict[str, float], tmp_path: Path) -> None:
    case = Case(name)
    model = model_of(case, "lora", tmp_path / "model")
    prompt = case.prompt("prompts_lora.txt").model_copy(update=change)
    denoised = sample(engine_for(case, model, tmp_path / "cache"), model, prompt, case.lora)
    assert distance(denoised.latents, case.expected["lora.final_latents"]) > 10 * LATENTS_TOLERANCE
