"""wan2.1-flf2v: a clip between two pictures is what diffusers makes of the same pictures and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

from engine_support import Recorder, make_job
from family_support import build_tiny, picture
from rushes.errors import ArchitectureError, ModelError, PromptError
from rushes.wire.jobs import SampleJob
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.encoders.clip_vision import ClipVision
from rushes_service.models.loading.from_repo import ModelSource
from rushes_service.models.wan.t2v import WanScheduler, initial_noise

NAME = "wan2.1-flf2v"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(NAME, tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine("cpu", tmp_path / "cache")


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, str]:
    """Start and end image of the sample's size, by the field of a prompt."""
    found = {}
    for number, field in enumerate(("image_path", "end_image_path")):
        path = tmp_path / f"{field}.png"
        Image.open(picture(tmp_path / "large.png", seed=number)).resize((32, 32)).save(path)
        found[field] = str(path)
    return found


def job(model: Path, name: str = NAME, **prompt: Any) -> SampleJob:
    spec = ModelSpec(architecture=name, model=str(model))
    return make_job(model, None, **prompt).model_copy(update={"model": spec})


@pytest.mark.parametrize("frames", [5, 9])
def test_the_clip_is_what_diffusers_makes_of_it(engine, model, pictures, frames):
    denoised = engine.denoise(job(model, frame_count=frames, **pictures), Recorder())
    parameters, pipe = denoised.parameters, WanImageToVideoPipeline.from_pretrained(model, image_processor=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = WanScheduler(parameters.discrete_flow_shift)
    shown = [Image.open(path).convert("RGB") for path in pictures.values()]
    tokens = torch.cat([ClipVision(ModelSource(model, None), CPU).encode(image) for image in shown])
    pipe.encode_image = lambda *_: tokens
    with torch.no_grad():
        wanted = pipe(
            image=shown[0],
            last_image=shown[1],
            prompt=parameters.prompt,
            negative_prompt=parameters.negative_prompt,
            latents=initial_noise(parameters, CPU),
            width=parameters.width,
            height=parameters.height,
            num_frames=parameters.frame_count,
            num_inference_steps=parameters.sample_steps,
            guidance_scale=parameters.cfg_scale,
            output_type="latent",
        ).frames
    # Pixels are divided by 127.5 here and by 255 there.
    assert (denoised.latents - wanted).abs().max() < 1e-4


def test_both_pictures_count(engine, model, pictures):
    swapped = dict(zip(pictures, reversed(pictures.values()), strict=True))
    first, second = (engine.denoise(job(model, frame_count=5, **given), Recorder()) for given in (pictures, swapped))
    assert (first.latents - second.latents).abs().max() > 0.01


def test_the_negative_prompt_is_its_own(engine, model, pictures):
    denoised = engine.denoise(job(model, frame_count=5, **pictures), Recorder())
    assert denoised.parameters.negative_prompt.startswith("镜头切换")


def test_a_clip_has_five_frames_at_least(engine, model, pictures):
    with pytest.raises(PromptError, match=r"--f 1 is too short: wan2\.1-flf2v needs 5 frames at least"):
        engine.denoise(job(model, frame_count=1, **pictures), Recorder())


def test_a_missing_or_unreadable_picture_is_named(engine, model, pictures):
    with pytest.raises(ArchitectureError, match=r"wan2\.1-flf2v needs --ei"):
        engine.denoise(job(model, image_path=pictures["image_path"]), Recorder())
    with pytest.raises(PromptError, match=r"--ei /nowhere\.png: there is no such file"):
        engine.denoise(job(model, frame_count=5, **{**pictures, "end_image_path": "/nowhere.png"}), Recorder())


def test_a_model_of_the_other_kind_is_refused_by_name(engine, model, pictures, tmp_path):
    other = build_tiny("wan2.1-i2v", tmp_path / "i2v")
    with pytest.raises(ModelError, match=r"is a model for a first and last frame: sample it as wan2\.1-flf2v"):
        engine.denoise(job(model, "wan2.1-i2v", image_path=pictures["image_path"]), Recorder())
    with pytest.raises(ModelError, match=r"is a model for a start image: sample it as wan2\.1-i2v"):
        engine.denoise(job(other, frame_count=5, **pictures), Recorder())
