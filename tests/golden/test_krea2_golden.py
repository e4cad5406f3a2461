"""Krea 2 is the reference sampler's: from prompt files to latents and pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from golden_files_support import expected, recorded_engine, recorded_model, recorded_runs, sigmas_of
from golden_support import Case, distance, sample, video
from rushes.training.flags import model_from_args
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.krea2.t2i import initial_noise, unpacked

CASE = Case("krea2")
LATENTS_TOLERANCE = 1e-4
PICTURE_TOLERANCE = 1e-4

BFLOAT16_NOISE, AS_SHIPPED = "bf16_noise", "asis_bf16"
"""Runs that compute in float32 what was drawn in bfloat16, and in bfloat16 altogether."""

RUNS = recorded_runs(CASE, but=(BFLOAT16_NOISE, AS_SHIPPED))
TURBO = "--turbo_dit"


def model_of(run: str, directory: Path) -> ModelSpec:
    """The recorded model; in runs of Turbo, as the trainer's flags name it, in place of a file that is not there."""
    model = recorded_model(CASE, "krea2", directory, "qwen_vae")
    if TURBO not in CASE.facts["runs"][run]["extra_argv"]:
        return model
    flags = {"dit": str(directory / "trained.safetensors"), "turbo_dit": model.dit, "vae": model.vae}
    return model_from_args(flags, "krea2", None)


def engine_for(model: ModelSpec, cache: Path) -> Engine:
    recorded, names = CASE.tensors("embeds"), CASE.facts["embeds"]
    return recorded_engine(CASE, model, cache, {text: {"embeds": recorded[name]} for text, name in names.items()})


@pytest.mark.parametrize("run", RUNS)
def test_latents_and_picture_are_the_references(run: str, tmp_path: Path) -> None:
    wanted, model = expected(CASE, run), model_of(run, tmp_path / "model")
    lora = CASE.lora if run.startswith("lora") else None
    denoised = sample(engine_for(model, tmp_path / "cache"), model, CASE.prompt(RUNS[run]), lora)
    assert distance(denoised.latents, wanted["final_latents"]) <= LATENTS_TOLERANCE
    if "video" in wanted:
        assert distance(video(denoised), wanted["video"]) <= PICTURE_TOLERANCE
    assert distance(sigmas_of(denoised), wanted["sigmas"]) <= (1e-7 if "turbo" in run else 0)
    noise = initial_noise(denoised.parameters, torch.device("cpu"), torch.float32)
    assert torch.equal(unpacked(noise, denoised.parameters)[:, :, 0], CASE.expected["base.noise"])


def test_bfloat16_draws_the_references_noise_and_rounds_about_as_it_does(tmp_path: Path) -> None:
    model = model_of(AS_SHIPPED, tmp_path / "model").model_copy(update={"dtype": "bfloat16"})
    denoised = sample(engine_for(model, tmp_path / "cache"), model, CASE.prompt())
    noise = initial_noise(denoised.parameters, torch.device("cpu"), torch.bfloat16)
    assert torch.equal(unpacked(noise, denoised.parameters)[:, :, 0], CASE.expected[f"{BFLOAT16_NOISE}.noise"])
    assert distance(denoised.latents, CASE.expected[f"{AS_SHIPPED}.final_latents"]) <= 0.1


def test_a_whole_checkpoint_in_the_releases_names_replaces_the_transformer(tmp_path: Path) -> None:
    model = model_of("base", tmp_path / "model")
    tuned = {name: tensor.float() * 1.05 for name, tensor in load_file(CASE.directory / "dit.safetensors").items()}
    save_file(tuned, tmp_path / "tuned.safetensors")
    found = sample(engine_for(model, tmp_path / "cache"), model, CASE.prompt(), tmp_path / "tuned.safetensors").latents
    save_file(tuned, str(model.dit))
    wanted = sample(engine_for(model, tmp_path / "other"), model, CASE.prompt()).latents
    assert distance(found, wanted) <= 1e-5
    assert distance(found, CASE.expected["base.final_latents"]) > 1e-3


@pytest.mark.parametrize("change", [{"seed": 78}, {"cfg_scale": 4.1}, {"lora_multiplier": 0.9}, {"width": 39}])
def test_the_tolerance_tells_right_from_wrong(change: dict[str, float], tmp_path: Path) -> None:
    model = model_of("lora", tmp_path / "model")
    prompt = CASE.prompt("prompts_lora.txt").model_copy(update=change)
    denoised = sample(engine_for(model, tmp_path / "cache"), model, prompt, CASE.lora)
    wanted = CASE.expected["lora.final_latents"]
    assert denoised.latents.shape != wanted.shape or distance(denoised.latents, wanted) > 20 * LATENTS_TOLERANCE
