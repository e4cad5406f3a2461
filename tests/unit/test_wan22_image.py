"""wan2.2-i2v-a14b: two experts and a start image, without CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

from engine_support import Recorder, make_job
from family_support import build_tiny, picture
from rushes.errors import ModelError
from rushes.wire.jobs import SampleJob
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.wan.t2v import WanScheduler, initial_noise

NAME = "wan2.2-i2v-a14b"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(NAME, tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine("cpu", tmp_path / "cache")


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A start image of the sample's size."""
    path = tmp_path / "start.png"
    Image.open(picture(tmp_path / "large.png")).resize((32, 32)).save(path)
    return path


def job(model: Path, start: Path, prompt: dict[str, Any] | None = None, **options: Any) -> SampleJob:
    """A job for the tiny model; `options` are fields of its `ModelSpec`."""
    spec = ModelSpec(architecture=NAME, model=str(model), **options)
    wanted = make_job(model, None, image_path=str(start), **(prompt or {}))
    return wanted.model_copy(update={"model": spec})


@pytest.mark.parametrize("asked", [None, 2.0])
def test_both_experts_are_what_diffusers_makes_of_them(engine, model, start, asked):
    prompt = {"sample_steps": 4, "discrete_flow_shift": 3.0, "cfg_scale": asked}
    denoised = engine.denoise(job(model, start, prompt, experts="both"), Recorder())
    parameters, pipe = denoised.parameters, WanImageToVideoPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = WanScheduler(parameters.discrete_flow_shift)
    with torch.no_grad():
        wanted = pipe(
            image=Image.open(start),
            prompt=parameters.prompt,
            negative_prompt=parameters.negative_prompt,
            latents=initial_noise(parameters, torch.device("cpu")),
            width=parameters.width,
            height=parameters.height,
            num_frames=parameters.frame_count,
            num_inference_steps=parameters.sample_steps,
            guidance_scale=asked or 3.5,
            guidance_scale_2=asked or 3.5,
            output_type="latent",
        ).frames
    # Pixels are divided by 127.5 here and by 255 there.
    assert (denoised.latents - wanted).abs().max() < 1e-4
    assert (denoised.facts()["experts"], denoised.facts()["boundary"]) == ("both", 0.9)


def test_each_choice_of_experts_makes_another_clip(engine, model, start):
    prompt = {"sample_steps": 4, "discrete_flow_shift": 3.0}
    made = [engine.denoise(job(model, start, prompt, experts=name), Recorder()) for name in ("low", "high", "both")]
    assert all(not torch.equal(made[a].latents, made[b].latents) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert [len(found.warnings) for found in made] == [1, 1, 0]


def test_an_end_image_is_ignored_with_a_warning(engine, model, start):
    denoised = engine.denoise(job(model, start, {"end_image_path": str(start)}), Recorder())
    assert "--ei is ignored by wan2.2-i2v-a14b" in denoised.warnings


def test_a_model_of_wan21_is_refused_by_name(engine, start, tmp_path):
    older = build_tiny("wan2.1-i2v", tmp_path / "older")
    with pytest.raises(ModelError, match=r"transformer has attention for image tokens: it is of Wan2\.1"):
        engine.denoise(job(older, start, experts="high"), Recorder())


def test_a_model_of_wan22_is_refused_by_wan21(engine, model, start):
    wanted = job(model, start)
    spec = ModelSpec(architecture="wan2.1-i2v", model=str(model))
    with pytest.raises(ModelError, match=r"transformer has no attention for image tokens"):
        engine.denoise(wanted.model_copy(update={"model": spec}), Recorder())
