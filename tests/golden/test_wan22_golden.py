"""wan2.2-t2v-a14b samples with one of its experts as the trainers do, at their guidance."""

from __future__ import annotations

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

from golden_support import Case, distance, sample, video
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from wan_support import recorded_engine, recorded_transformer, recorded_vae

CASE, PARTS = Case("wan22_t2v"), Case("wan_t2v")
"""The recording, and the case whose transformer, VAE, LoRA and embeddings it was made with."""

LATENTS_TOLERANCE = 1e-4
VIDEO_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    low = PARTS.tensors("dit")
    generator = torch.Generator().manual_seed(2200)
    high = {name: tensor * (1 + 0.1 * torch.randn(tensor.shape, generator=generator)) for name, tensor in low.items()}
    directory = tmp_path_factory.mktemp("model")
    WanPipeline(
        tokenizer=None,
        text_encoder=None,
        transformer=recorded_transformer(PARTS, high),
        transformer_2=recorded_transformer(PARTS, low),
        vae=recorded_vae(PARTS),
        scheduler=UniPCMultistepScheduler(),
        boundary_ratio=0.875,
    ).save_pretrained(directory)
    return ModelSpec(architecture="wan2.2-t2v-a14b", model=str(directory))


@pytest.fixture(scope="module")
def engine(model: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return recorded_engine(PARTS, model, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("run", ["base", "lora"])
def test_after_training_both_experts_the_one_for_little_noise_makes_the_clip(engine, model, run):
    denoised = sample(engine, model, CASE.prompt(), PARTS.lora if run == "lora" else None)
    assert denoised.parameters.cfg_scale == 3.0
    assert distance(denoised.latents, CASE.expected[f"{run}.final_latents"]) <= LATENTS_TOLERANCE
    assert distance(video(denoised), CASE.expected[f"{run}.video"]) <= VIDEO_TOLERANCE


def test_after_training_the_expert_for_much_noise_it_makes_the_clip(engine, model):
    high = model.model_copy(update={"experts": "high"})
    denoised = sample(engine, high, CASE.prompt())
    assert distance(denoised.latents, CASE.expected["single_high.final_latents"]) <= LATENTS_TOLERANCE


def test_both_experts_together_make_another_clip(engine, model):
    both = model.model_copy(update={"experts": "both"})
    latents = sample(engine, both, CASE.prompt()).latents
    for run in ("base", "single_high"):
        assert distance(latents, CASE.expected[f"{run}.final_latents"]) > 0.1
