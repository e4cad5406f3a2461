"""Wan, FLUX and FramePack in bfloat16, as GPUs run them, are as near to the reference as its rounding lets them be."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import flux_support
import framepack_support
import wan_support
from bfloat16_support import FedScheduler, Recording, in_bfloat16, mean_difference, recording
from golden_support import Case, sample
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.flux import kontext as flux
from rushes_service.models.framepack import video as framepack
from rushes_service.models.framepack.transformer import FramePackTransformer
from rushes_service.models.wan import t2v as wan
from rushes_service.models.wan.time_embedding import TimeInFloat32

WAN = {
    "wan_t2v": "wan2.1-t2v",
    "wan_i2v": "wan2.1-i2v",
    "wan_fun_control_t2v": "wan2.1-fun-control",
    "wan_fun_control_i2v": "wan2.1-fun-control",
}
FRAMEPACK = {
    "framepack_i2v": "framepack",
    "framepack_f1": "framepack",
    "framepack_one_frame": "framepack-one-frame",
}
FLUX_RUNS = {
    "base": ("prompts.txt", {}),
    "fs14_5": ("prompts_fs14_5.txt", {}),
    "no_control": ("prompts_no_control.txt", {}),
    "steps20": ("prompts_fs14_5.txt", {"sample_steps": 20}),
}

WAN_CALL, WAN_SAMPLE = 0.045, 0.04
"""Mean differences of guided predictions, and of samples; guidance multiplies rounding. Weights that are moved by one
bfloat16 step move ours by 0.045 and 0.03."""

CALL, SAMPLE = 0.006, 0.012
"""Without guidance; weights moved by one step: 0.0064 to 0.0115, and 0.010."""


@pytest.fixture(params=WAN)
def wan_case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Case, Engine, ModelSpec]:
    case = Case(request.param)
    model = wan_support.recorded_model(case, WAN[case.name], tmp_path / "model")
    engine = wan_support.recorded_engine(case, model, tmp_path / "cache")
    prompt = case.prompt()
    return case, engine, in_bfloat16(engine, model, [prompt.prompt, prompt.negative_prompt])


@pytest.fixture(params=FRAMEPACK)
def framepack_case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Case, Engine, ModelSpec]:
    case = Case(request.param)
    model = framepack_support.recorded_model(case, FRAMEPACK[case.name], tmp_path / "model")
    engine = framepack_support.recorded_engine(case, model, tmp_path / "cache")
    return case, engine, model.model_copy(update={"dtype": "bfloat16"})


@pytest.fixture(scope="module")
def flux_case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Engine, ModelSpec]:
    case, directory = Case("flux_kontext"), tmp_path_factory.mktemp("flux")
    model = flux_support.recorded_model(case, directory / "model")
    engine = flux_support.recorded_engine(case, model, directory / "cache")
    return case, engine, in_bfloat16(engine, model, [case.prompt().prompt])


def scheduled_calls(
    scheduler: type, recorded: Recording, engine: Engine, model: ModelSpec, prompt: Prompt
) -> torch.Tensor:
    """What the transformer makes of the recorded latents, through the family's own loop."""
    fed = FedScheduler(recorded)

    def step(self: object, *args: object, **options: object) -> tuple:
        if getattr(self, "step_index", None) is None:
            self._init_step_index(args[1])
        self._step_index += 1
        return fed.step(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "step", step)
        sample(engine, model, prompt)
    return torch.cat(fed.predictions)


def integrated_calls(recorded: Recording, engine: Engine, model: ModelSpec, prompt: Prompt) -> torch.Tensor:
    """The same for FramePack, whose integrator calls the transformer itself."""
    found: list[torch.Tensor] = []

    def integrate(
        predict: framepack.Callable, _noise: torch.Tensor, sigmas: torch.Tensor, _told: object
    ) -> torch.Tensor:
        for sigma in sigmas[:-1]:
            latents = recorded.inputs[len(found)][None]
            found.append(predict(latents, sigma[None]))
        return recorded.predictions[len(found) - 1][None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framepack, "sample_unipc", integrate)
        sample(engine, model, prompt)
    return torch.cat(found)


def test_wan_follows_the_reference(wan_case):
    case, engine, model = wan_case
    recorded = recording(case)
    calls = scheduled_calls(wan.WanScheduler, recorded, engine, model, case.prompt())
    assert mean_difference(calls, recorded.predictions) <= WAN_CALL
    assert mean_difference(sample(engine, model, case.prompt()).latents, recorded.final_latents) <= WAN_SAMPLE


def test_wan_would_be_off_with_rounded_timesteps(wan_case, monkeypatch):
    case, engine, model = wan_case
    forward = TimeInFloat32.forward
    monkeypatch.setattr(
        TimeInFloat32, "forward", lambda self, time, *rest, **named: forward(self, time.bfloat16(), *rest, **named)
    )
    recorded = recording(case)
    calls = scheduled_calls(wan.WanScheduler, recorded, engine, model, case.prompt())
    assert mean_difference(calls, recorded.predictions) > 2 * WAN_CALL


def test_wan_modulates_by_time_and_guides_in_float32(wan_case):
    case, engine, model = wan_case
    seen: list[torch.Tensor] = []

    def look(_module: nn.Module, _inputs: object, output: tuple[torch.Tensor, ...]) -> None:
        seen.extend(output[:2])

    denoised = sample(engine, model, case.prompt())
    transformer = engine.loaded.base.transformer
    assert isinstance(transformer.condition_embedder, TimeInFloat32)
    transformer.condition_embedder.register_forward_hook(look)
    transformer.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    assert torch.equal(sample(engine, model, case.prompt()).latents, denoised.latents)
    assert {tensor.dtype for tensor in seen} == {torch.float32}


@pytest.mark.parametrize("run", FLUX_RUNS)
def test_flux_follows_the_reference(flux_case, run):
    case, engine, model = flux_case
    file, change = FLUX_RUNS[run]
    prompt, recorded = case.prompt(file).model_copy(update=change), recording(case, f"{run}.")
    calls = scheduled_calls(flux.ReferenceEuler, recorded, engine, model, prompt)
    assert mean_difference(calls, recorded.predictions) <= CALL
    assert mean_difference(sample(engine, model, prompt).latents, recorded.final_latents) <= SAMPLE


def test_flux_would_be_off_with_noise_levels_that_are_rounded_twice(flux_case, monkeypatch):
    case, engine, model = flux_case
    prompt = case.prompt("prompts_fs14_5.txt").model_copy(update={"sample_steps": 20})
    monkeypatch.setattr(flux, "timed_by", lambda *_arguments: contextlib.nullcontext())
    recorded = recording(case, "steps20.")
    calls = scheduled_calls(flux.ReferenceEuler, recorded, engine, model, prompt)
    assert mean_difference(calls, recorded.predictions) > 4 * CALL
    assert mean_difference(sample(engine, model, prompt).latents, recorded.final_latents) > 3 * SAMPLE


def test_framepack_follows_the_reference(framepack_case):
    case, engine, model = framepack_case
    recorded = recording(case)
    calls = integrated_calls(recorded, engine, model, case.prompt())
    assert mean_difference(calls, recorded.predictions) <= CALL
    assert mean_difference(sample(engine, model, case.prompt()).latents, recorded.final_latents) <= SAMPLE


def test_framepack_predicts_from_the_latents_that_the_model_saw(framepack_case):
    case, engine, model = framepack_case
    recorded = recording(case)
    rounded = replace(recorded, inputs=recorded.inputs.bfloat16().float())
    found, wanted = (integrated_calls(given, engine, model, case.prompt()) for given in (recorded, rounded))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("wrong", ["timestep", "guidance"])
def test_framepack_would_be_off_with_a_rounded_timestep_or_an_unrounded_guidance(framepack_case, monkeypatch, wrong):
    case, engine, model = framepack_case
    forward, guidance = FramePackTransformer.forward, torch.tensor([10000.0])

    def mistaken(self, noisy, history, words, timestep, rounded):
        if wrong == "timestep":
            return forward(self, noisy, history, words, timestep.bfloat16(), rounded)
        return forward(self, noisy, history, words, timestep, guidance)

    monkeypatch.setattr(FramePackTransformer, "forward", mistaken)
    recorded = recording(case)
    calls = integrated_calls(recorded, engine, model, case.prompt())
    assert mean_difference(calls, recorded.predictions) > 2 * CALL
    assert mean_difference(sample(engine, model, case.prompt()).latents, recorded.final_latents) > 3 * SAMPLE
