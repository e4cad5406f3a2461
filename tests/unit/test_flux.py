"""FLUX.1 Kontext beyond its recorded cases: control images, ignored options, tiles, encoders, errors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxKontextPipeline
from PIL import Image

from engine_support import Recorder
from family_support import picture, tiny_model_spec
from golden_support import distance
from queue_support import make_job
from rushes.errors import ModelError, PromptError
from rushes.wire.jobs import VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import DenoisedSample, Engine
from rushes_service.models.encoders.t5_clip import TextEncoders
from rushes_service.models.flux.kontext import control_pixels
from rushes_service.models.loading.from_repo import ModelSource
from rushes_service.models.vae.kl import decode_kl, plan_kl_tiles


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return tiny_model_spec("flux1-kontext", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def pipe(model: ModelSpec) -> FluxKontextPipeline:
    return FluxKontextPipeline.from_pretrained(model.model)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine("cpu", tmp_path_factory.mktemp("cache"))


def denoised(engine: Engine, model: ModelSpec, vae: VaeOptions | None = None, **options: Any) -> DenoisedSample:
    job = make_job(model=model, **{"width": 32, "height": 48, "sample_steps": 2, "seed": 5, **options})
    return engine.denoise(job.model_copy(update={"vae": vae or VaeOptions()}), Recorder())


def test_without_a_control_image_the_picture_is_the_pipelines(engine, model, pipe):
    found = denoised(engine, model, discrete_flow_shift=0, guidance_scale=3.0)
    noise = torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(5))
    wanted = pipe(
        prompt="a red ball",
        latents=noise,
        width=32,
        height=48,
        max_area=32 * 48,
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="pt",
    ).images
    assert distance(next(found.pixels())[None, :, 0], wanted) <= 1e-5


def test_texts_are_encoded_as_the_pipeline_does_with_every_token_kept(model, pipe):
    source = ModelSource(Path(str(model.model)), None)
    found = TextEncoders(source, torch.device("cpu"), torch.float32).encode("a red ball, très joli")
    with torch.no_grad():
        embeds, pooled, _ = pipe.encode_prompt("a red ball, très joli", device="cpu")
    assert torch.equal(found["prompt_embeds"], embeds)
    assert torch.equal(found["pooled_prompt_embeds"], pooled)
    assert found["prompt_embeds"].shape[1] == 512


def test_a_control_image_is_cut_at_its_right_and_bottom_and_never_resized(tmp_path):
    path = picture(tmp_path / "control.png")
    with Image.open(path) as image:
        image.crop((0, 0, 61, 45)).save(path)
    with Image.open(path) as image:
        image.crop((0, 0, 48, 32)).save(tmp_path / "cut.png")
    pixels = control_pixels(str(path))
    assert pixels.shape == (1, 3, 32, 48)
    assert torch.equal(pixels, control_pixels(str(tmp_path / "cut.png")))
    assert -1 <= float(pixels.min()) < float(pixels.max()) <= 1


def test_only_the_first_control_image_counts_and_the_others_are_named(engine, model, tmp_path):
    first, second = (str(picture(tmp_path / f"{seed}.png", seed)) for seed in (1, 2))
    both = denoised(engine, model, control_image_path=(first, second))
    alone = denoised(engine, model, control_image_path=(first,))
    other = denoised(engine, model, control_image_path=(second,))
    assert torch.equal(both.latents, alone.latents)
    assert not torch.equal(both.latents, other.latents)
    assert any(second in warning and "--ci" in warning for warning in both.warnings)
    assert alone.warnings == ()
    assert both.parameters.control_image_path == (first,)


def test_a_control_image_smaller_than_a_token_is_refused(tmp_path):
    path = tmp_path / "dot.png"
    Image.new("RGB", (15, 64)).save(path)
    with pytest.raises(PromptError, match=r"--ci .*dot.png has 15 x 64 pixels; FLUX needs 16 x 16"):
        control_pixels(str(path))


def test_options_that_kontext_ignores_change_nothing_and_are_named(engine, model):
    plain = denoised(engine, model)
    ignored = denoised(engine, model, frame_count=9, cfg_scale=4.0, negative_prompt="blurry", width=47)
    assert torch.equal(plain.latents, ignored.latents)
    assert ignored.parameters.frame_count == 1
    for option in ("--f", "--l", "--n", "--w"):
        assert sum(option in warning.split() for warning in ignored.warnings) == 1


def test_tiles_meet_and_are_announced(engine, model, pipe):
    options = VaeOptions(spatial_tile_sample_min_size=40)
    whole, tiled = denoised(engine, model, width=96, height=64), denoised(engine, model, options, width=96, height=64)
    assert any("tiles of 32 pixels" in warning for warning in tiled.warnings)
    first, second = next(whole.pixels()), next(tiled.pixels())
    assert first.shape == second.shape == (3, 1, 64, 96)
    assert not torch.equal(first, second)
    assert torch.equal(next(whole.pixels()), first)


@pytest.mark.parametrize("size", [16, 40, 48, 72, 100, 136])
def test_a_tiled_picture_has_the_whole_ones_size(pipe, size):
    options = VaeOptions(spatial_tile_sample_min_size=size)
    plan = plan_kl_tiles(options, 160, 152)
    assert plan is not None
    assert plan.size % 32 == 0
    assert decode_kl(pipe.vae, torch.randn(1, 16, 19, 20), options).shape == (1, 3, 152, 160)


def test_a_model_without_one_of_its_encoders_is_an_error_that_names_it(model, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(str(model.model), bare)
    shutil.rmtree(bare / "text_encoder_2")
    with pytest.raises(ModelError, match="text_encoder_2"):
        denoised(Engine("cpu", tmp_path / "cache"), model.model_copy(update={"model": str(bare)}))


def test_another_familys_directory_is_refused(tiny_wan, tmp_path):
    wrong = ModelSpec(architecture="flux1-kontext", model=str(tiny_wan))
    with pytest.raises(ModelError, match=r"WanPipeline.*FluxKontextPipeline"):
        denoised(Engine("cpu", tmp_path), wrong)


def test_the_tiny_model_is_small(model):
    files = [path for path in Path(str(model.model)).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
