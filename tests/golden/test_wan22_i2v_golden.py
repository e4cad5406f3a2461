"""wan2.2-i2v-a14b samples with one of its experts as the trainers do, from a start image, at their guidance."""

from __future__ import annotations

import pytest
import torch

from golden_support import Case, distance, sample, video
from rushes.errors import PromptError
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.wan.t2v import initial_noise
from wan_support import recorded_engine, recorded_model, recorded_transformer

CASE = Case("wan22_i2v")
LATENTS_TOLERANCE = 1e-4
VIDEO_TOLERANCE = 1e-3
ROUNDING_NOISE = 0.05
"""Of latents whose attention was cast to bfloat16."""

RUNS = {
    "no_cfg": "prompts_no_cfg.txt",
    "no_fs": "prompts_no_fs.txt",
    "f1": "prompts_f1.txt",
    "both_experts_after_high_step": "prompts.txt",
    "force_v2_1_time_embedding": "prompts.txt",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """The recorded expert is the one for little noise; the other has other weights."""
    low = CASE.tensors("dit")
    generator = torch.Generator().manual_seed(2211)
    high = {name: tensor * (1 + 0.1 * torch.randn(tensor.shape, generator=generator)) for name, tensor in low.items()}
    experts = {"transformer": recorded_transformer(CASE, high), "transformer_2": recorded_transformer(CASE, low)}
    return recorded_model(CASE, "wan2.2-i2v-a14b", tmp_path_factory.mktemp("model"), **experts, boundary_ratio=0.9)


@pytest.fixture(scope="module")
def engine(model: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return recorded_engine(CASE, model, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("run", ["base", "lora"])
def test_latents_and_video_are_the_references(engine, model, run):
    denoised = sample(engine, model, CASE.prompt(), CASE.lora if run == "lora" else None)
    assert denoised.parameters.cfg_scale == 3.5
    assert distance(denoised.latents, CASE.expected[f"{run}.final_latents"]) <= LATENTS_TOLERANCE
    assert distance(video(denoised), CASE.expected[f"{run}.video"]) <= VIDEO_TOLERANCE


@pytest.mark.parametrize("run", RUNS)
def test_variants_are_the_references(engine, model, run):
    denoised = sample(engine, model, CASE.prompt(RUNS[run]))
    assert distance(denoised.latents, CASE.expected[f"{run}.final_latents"]) <= LATENTS_TOLERANCE
    if f"{run}.video" in CASE.expected:
        assert distance(video(denoised), CASE.expected[f"{run}.video"]) <= VIDEO_TOLERANCE


def test_a_prompt_without_a_negative_one_gets_wans_own(engine, model, tmp_path):
    recorded = {**CASE.tensors("embeds")}
    recorded["negative_t5_embeds"] = recorded["default_negative_t5_embeds"]
    prompt = CASE.prompt("prompts_default_negative.txt")
    other = recorded_engine(CASE, model, tmp_path, recorded, prompt)
    denoised = sample(other, model, prompt)
    assert distance(denoised.latents, CASE.expected["default_negative.final_latents"]) <= LATENTS_TOLERANCE


def test_the_references_cast_of_attention_to_bfloat16_is_no_more_than_rounding_noise(engine, model):
    denoised = sample(engine, model, CASE.prompt())
    assert distance(denoised.latents, CASE.expected["asis_bf16_attention.final_latents"]) <= ROUNDING_NOISE


def test_sigmas_and_initial_noise_are_the_references_bit_for_bit(engine, model):
    denoised = sample(engine, model, CASE.prompt())
    assert torch.equal(torch.tensor(denoised.facts()["sigmas"]), CASE.expected["base.sigmas"])
    assert torch.equal(initial_noise(denoised.parameters, torch.device("cpu"))[0], CASE.expected["noise"])


@pytest.mark.parametrize("change", [{"seed": 1235}, {"discrete_flow_shift": 3.1}, {"cfg_scale": 3.0}])
def test_the_tolerance_tells_right_from_wrong(engine, model, change):
    denoised = sample(engine, model, CASE.prompt().model_copy(update=change))
    assert distance(denoised.latents, CASE.expected["base.final_latents"]) > 50 * LATENTS_TOLERANCE


def test_a_size_that_the_reference_fails_at_is_rounded_down_with_a_warning(engine, model):
    denoised = sample(engine, model, CASE.prompt("prompts_w40_not_16.txt"))
    assert video(denoised).shape == (1, 3, 5, 32, 32)
    assert any("--w 40 rounded down to 32" in warning for warning in denoised.warnings)


def test_an_unreadable_start_image_is_named(engine, model):
    with pytest.raises(PromptError, match="there is no such file"):
        sample(engine, model, CASE.prompt().model_copy(update={"image_path": "/nowhere.png"}))
