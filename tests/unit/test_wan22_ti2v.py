"""wan2.2-ti2v-5b is what diffusers' pipelines make of words, and of a start image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanPipeline
from PIL import Image

from engine_support import Recorder, make_job
from family_support import build_tiny, picture
from rushes.errors import ModelError
from rushes.wire.jobs import SampleJob, VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import DenoisedSample, Engine
from rushes_service.models.loading.build_plans import build_plans
from rushes_service.models.loading.building import build
from rushes_service.models.loading.files.headers import read_header
from rushes_service.models.loading.files.kinds import described
from single_files_support import original_file

NAME = "wan2.2-ti2v-5b"
SIZE = {"width": 64, "height": 32, "sample_steps": 3, "frame_count": 5}


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
    Image.open(picture(tmp_path / "large.png")).resize((64, 32)).save(path)
    return path


def job(model: Path, name: str = NAME, **prompt: Any) -> SampleJob:
    spec = ModelSpec(architecture=name, model=str(model))
    return make_job(model, None, **{**SIZE, **prompt}).model_copy(update={"model": spec})


@torch.no_grad()
def by_diffusers(pipe: Any, denoised: DenoisedSample, **options: Any) -> torch.Tensor:
    """Latents of the same sample by a pipeline of diffusers with its own scheduler."""
    parameters = denoised.parameters
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, flow_shift=parameters.discrete_flow_shift)
    return pipe(
        prompt=parameters.prompt,
        negative_prompt=parameters.negative_prompt,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
        width=parameters.width,
        height=parameters.height,
        num_frames=parameters.frame_count,
        num_inference_steps=parameters.sample_steps,
        guidance_scale=parameters.cfg_scale,
        output_type="latent",
        **options,
    ).frames


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_words_alone_make_what_diffusers_makes(engine, model, frames):
    denoised = engine.denoise(job(model, frame_count=frames), Recorder())
    assert torch.equal(denoised.latents, by_diffusers(WanPipeline.from_pretrained(model), denoised))
    assert (denoised.parameters.cfg_scale, denoised.parameters.discrete_flow_shift) == (5.0, 5.0)


def test_a_start_image_makes_what_diffusers_makes(engine, model, start):
    denoised = engine.denoise(job(model, image_path=str(start)), Recorder())
    parts = WanPipeline.from_pretrained(model).components
    pipe = WanImageToVideoPipeline(
        **{**parts, "transformer_2": None}, image_encoder=None, image_processor=None, expand_timesteps=True
    )
    wanted = by_diffusers(pipe, denoised, image=Image.open(start))
    # Pixels are divided by 127.5 here and by 255 there.
    assert (denoised.latents - wanted).abs().max() < 1e-4
    without = engine.denoise(job(model), Recorder())
    assert (denoised.latents - without.latents).abs().max() > 0.1


@pytest.mark.parametrize("options", [VaeOptions(), VaeOptions(spatial_tile_sample_min_size=32)])
def test_frames_are_those_of_the_vae(engine, model, options):
    wanted = job(model, frame_count=9).model_copy(update={"vae": options})
    pixels = torch.cat(list(engine.denoise(wanted, Recorder()).pixels()), dim=1)
    assert pixels.shape == (3, 9, 32, 64)
    if options == VaeOptions():
        denoised = engine.denoise(wanted, Recorder())
        coder = AutoencoderKLWan.from_pretrained(model / "vae")
        mean, std = (torch.tensor(coder.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
        with torch.no_grad():
            whole = coder.decode(denoised.latents * std + mean, return_dict=False)[0][0]
        assert torch.equal(pixels, (whole / 2 + 0.5).clamp(0, 1))


def test_sizes_are_multiples_of_32(engine, model):
    denoised = engine.denoise(job(model, width=80), Recorder())
    assert denoised.parameters.width == 64
    assert any("--w 80 rounded down to 64" in warning for warning in denoised.warnings)


def test_its_vae_is_read_from_a_file_and_told_from_the_older_one(model, tmp_path):
    file = original_file(model / "vae", tmp_path / "vae.safetensors")
    header = read_header(file)
    assert "encoder.downsamples.0.downsamples.0.residual.0.gamma" in header.entries
    assert "decoder.upsamples.0.upsamples.2.resample.1.weight" in header.entries
    assert described(header) == "Wan2.2's VAE"
    assert "AutoencoderKLWan" in build_plans()
    made, wanted = build(header, AutoencoderKLWan), AutoencoderKLWan.from_pretrained(model / "vae")
    assert all(torch.equal(tensor, made.state_dict()[name]) for name, tensor in wanted.state_dict().items())


def test_other_models_of_48_channels_are_told_apart(engine, model, tmp_path):
    control = build_tiny("wan2.1-fun-control", tmp_path / "control")
    with pytest.raises(
        ModelError, match=r"takes 48 channels \(Fun-Control\), but this architecture needs 48 \(Wan2\.2 5B"
    ):
        engine.denoise(job(control), Recorder())
    with pytest.raises(ModelError, match=r"takes 48 channels \(Wan2\.2 5B\), but this architecture needs 16"):
        engine.denoise(job(model, "wan2.1-t2v"), Recorder())
