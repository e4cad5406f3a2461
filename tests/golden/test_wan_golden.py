"""Wan2.1's families are the reference sampler's: from their prompt files to latents and frames, through the engine."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from golden_support import Case, distance, sample, video
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.wan.t2v import initial_noise
from wan_support import recorded_engine, recorded_model

LATENTS_TOLERANCE = 1e-4
VIDEO_TOLERANCE = 1e-3
"""Weights perturbed by 1e-6 move the video by up to 4e-5; a shift of 3.1 for 3.0 moves it by 0.5 and more."""

ROUNDING_NOISE = 0.05
"""Of latents whose attention was cast to bfloat16: weights perturbed by 1e-7 then move them by 0.017."""

ARCHITECTURES = {
    "wan_t2v": "wan2.1-t2v",
    "wan_i2v": "wan2.1-i2v",
    "wan_fun_control_t2v": "wan2.1-fun-control",
    "wan_fun_control_i2v": "wan2.1-fun-control",
}


@dataclass(frozen=True)
class Ready:
    """A case with the engine that samples it."""

    case: Case
    engine: Engine
    model: ModelSpec

    @property
    def prompt(self) -> Prompt:
        return self.case.prompt()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    case, directory = Case(request.param), tmp_path_factory.mktemp(request.param)
    model = recorded_model(case, ARCHITECTURES[request.param], directory / "model")
    return Ready(case, recorded_engine(case, model, directory / "cache"), model)


@pytest.mark.parametrize("run", ["base", "lora"])
def test_latents_and_video_are_the_references(ready, run):
    denoised = sample(ready.engine, ready.model, ready.prompt, ready.case.lora if run == "lora" else None)
    assert distance(denoised.latents, ready.case.expected[f"{run}.final_latents"]) <= LATENTS_TOLERANCE
    assert distance(video(denoised), ready.case.expected[f"{run}.video"]) <= VIDEO_TOLERANCE


def test_latents_are_the_references_with_guidance_in_one_batch(ready):
    ready.engine.batching = "on"
    try:
        denoised = sample(ready.engine, ready.model, ready.prompt)
    finally:
        ready.engine.batching = "auto"
    assert denoised.facts()["guidance"] == "in one batch"
    assert distance(denoised.latents, ready.case.expected["base.final_latents"]) <= LATENTS_TOLERANCE


def test_the_references_cast_of_attention_to_bfloat16_is_no_more_than_rounding_noise(ready):
    denoised = sample(ready.engine, ready.model, ready.prompt)
    assert distance(denoised.latents, ready.case.expected["asis_bf16_attention.final_latents"]) <= ROUNDING_NOISE


def test_frames_are_truncated_to_bytes_as_the_reference_writes_them(ready):
    frames = list(sample(ready.engine, ready.model, ready.prompt).frames())
    wanted = (ready.case.expected["base.video"][0].permute(1, 2, 3, 0) * 255).to(torch.uint8)
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 9
    difference = torch.stack([torch.from_numpy(frame) for frame in frames]).int() - wanted.int()
    assert difference.abs().max() <= 1
    assert (difference != 0).float().mean() < 0.01


def test_sigmas_and_initial_noise_are_the_references_bit_for_bit(ready):
    denoised = sample(ready.engine, ready.model, ready.prompt)
    assert torch.equal(torch.tensor(denoised.facts()["sigmas"]), ready.case.expected["base.sigmas"])
    assert torch.equal(initial_noise(denoised.parameters, torch.device("cpu"))[0], ready.case.expected["noise"])


@pytest.mark.parametrize(
    "change", [{"seed": 1235}, {"discrete_flow_shift": 3.1}, {"cfg_scale": 4.9}, {"lora_multiplier": 0.0}]
)
def test_the_tolerance_tells_right_from_wrong(ready, change):
    denoised = sample(ready.engine, ready.model, ready.prompt.model_copy(update=change), ready.case.lora)
    assert distance(denoised.latents, ready.case.expected["lora.final_latents"]) > 50 * LATENTS_TOLERANCE


def test_embedded_guidance_is_ignored_with_a_warning(ready):
    denoised = sample(ready.engine, ready.model, ready.prompt.model_copy(update={"guidance_scale": 7.0}))
    assert distance(denoised.latents, ready.case.expected["base.final_latents"]) <= LATENTS_TOLERANCE
    assert any("--g" in warning for warning in denoised.warnings)
