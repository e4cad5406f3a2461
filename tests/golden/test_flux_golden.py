"""flux1-kontext is the reference sampler's: from prompt files to latents and pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from flux_support import recorded_engine, recorded_model, recorded_vae
from golden_support import Case, distance, sample, video
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.flux.kontext import control_pixels, initial_noise

CASE = Case("flux_kontext")
LATENTS_TOLERANCE = 1e-4
VIDEO_TOLERANCE = 1e-4
"""Weights perturbed by 1e-6 move the picture by 2e-6; the posterior's mean in place of a draw by 1e-2."""

RUNS = {
    "base": "prompts.txt",
    "lora": "prompts.txt",
    "fs14_5": "prompts_fs14_5.txt",
    "lora_fs14_5": "prompts_lora_fs14_5.txt",
    "no_control": "prompts_no_control.txt",
}
ENCODE_MODE = "encode_mode"
LEAST_LOG_VARIANCE = -30.0
"""The VAE clamps to it; a draw from such a posterior is its mean, give or take 3e-7."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return recorded_model(CASE, tmp_path_factory.mktemp("golden") / "flux")


@pytest.fixture(scope="module")
def engine(model: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return recorded_engine(CASE, model, tmp_path_factory.mktemp("cache"))


def certain(vae: AutoencoderKL) -> AutoencoderKL:
    """`vae` with posteriors of no width."""
    last, channels = vae.encoder.conv_out, vae.config.latent_channels
    with torch.no_grad():
        last.weight[channels:] = 0
        last.bias[channels:] = LEAST_LOG_VARIANCE
    return vae


def test_every_recorded_run_is_compared():
    assert {*RUNS, ENCODE_MODE} == set(CASE.facts["runs"])


@pytest.mark.parametrize("run", RUNS)
def test_latents_and_picture_are_the_references(engine, model, run):
    denoised = sample(engine, model, CASE.prompt(RUNS[run]), CASE.lora if run.startswith("lora") else None)
    assert distance(denoised.latents, CASE.expected[f"{run}.final_latents"]) <= LATENTS_TOLERANCE
    assert distance(video(denoised), CASE.expected[f"{run}.video"]) <= VIDEO_TOLERANCE
    assert denoised.warnings == ()


def test_latents_are_the_references_where_the_posterior_is_certain(tmp_path: Path):
    model = recorded_model(CASE, tmp_path / "model", certain(recorded_vae(CASE)))
    denoised = sample(recorded_engine(CASE, model, tmp_path / "cache"), model, CASE.prompt())
    assert distance(denoised.latents, CASE.expected[f"{ENCODE_MODE}.final_latents"]) <= LATENTS_TOLERANCE


def test_a_prompt_without_shift_has_the_references_default(engine, model):
    prompt = CASE.prompt().model_copy(update={"discrete_flow_shift": None, "guidance_scale": None})
    denoised = sample(engine, model, prompt)
    assert distance(denoised.latents, CASE.expected["fs14_5.final_latents"]) <= LATENTS_TOLERANCE


@pytest.mark.parametrize("run", ["base", "fs14_5", "no_control"])
def test_sigmas_and_initial_noise_are_the_references_bit_for_bit(engine, model, run):
    denoised = sample(engine, model, CASE.prompt(RUNS[run]))
    assert torch.equal(torch.tensor(denoised.facts()["sigmas"]), CASE.expected[f"{run}.sigmas"])
    assert torch.equal(initial_noise(denoised.parameters, torch.device("cpu")), CASE.expected["noise"])


def test_the_control_image_is_encoded_as_recorded():
    pixels = control_pixels(str(CASE.directory / "control0.png"))
    with torch.no_grad():
        posterior = recorded_vae(CASE).eval().encode(pixels).latent_dist
    assert distance(posterior.mean, CASE.expected["base.encode_dist_mean.0"]) <= LATENTS_TOLERANCE
    assert distance(posterior.std, CASE.expected["base.encode_dist_std.0"]) <= LATENTS_TOLERANCE
    torch.manual_seed(1234)
    assert distance(posterior.sample(), CASE.expected["base.encode_dist_value.0"]) <= LATENTS_TOLERANCE


@pytest.mark.parametrize(
    "change", [{"seed": 1235}, {"discrete_flow_shift": 14.4}, {"guidance_scale": 2.6}, {"lora_multiplier": 0.0}]
)
def test_the_tolerance_tells_right_from_wrong(engine, model, change):
    prompt = CASE.prompt(RUNS["lora_fs14_5"]).model_copy(update=change)
    denoised = sample(engine, model, prompt, CASE.lora)
    assert distance(denoised.latents, CASE.expected["lora_fs14_5.final_latents"]) > 20 * LATENTS_TOLERANCE
