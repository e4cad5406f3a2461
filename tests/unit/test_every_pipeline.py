"""Pipelines that were tried: pictures and clips are those of the bare pipeline, without and with a LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from family_support import picture
from golden_support import sample
from pipeline_support import TEXT, bare, drawn, pixels, spec_of, write_adapter
from rushes.errors import PromptError
from rushes.wire.jobs import Prompt, VaeOptions
from rushes_service.engine.engine import Engine
from rushes_service.models.generic import steps
from tiny_pipelines import CLIPS, PIPELINES, build

SIDES = {"hidream": 128}
"""Pixels of pipelines that make pictures of one area alone."""

FRAMES = {"ltx2": 5}
"""Of clips whose tiny model has more latents than others."""


def inputs(name: str, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a prompt says, and what the bare pipeline is called with."""
    side = SIDES.get(name, 32)
    options = {"width": side, "height": side, "sample_steps": 2}
    asked = {"width": side, "height": side, "num_inference_steps": 2}
    if name in CLIPS:
        options["frame_count"] = asked["num_frames"] = FRAMES.get(name, 9)
    if name.endswith("i2v"):
        path = picture(directory / "start.png")
        options["image_path"], asked["image"] = str(path), Image.open(path).convert("RGB")
    return options, asked


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_makes_what_it_makes_by_itself_without_and_with_a_lora(name, tmp_path):
    model = build(name, tmp_path / "model")
    options, asked = inputs(name, tmp_path)
    plain, wanted = drawn(model, tmp_path / "cache", **options), bare(model, **asked)
    assert wanted.std() > 0.01
    assert torch.equal(pixels(plain), wanted)
    assert plain.parameters.frame_count == wanted.shape[1]
    assert not [warning for warning in plain.warnings if "ignored" in warning]
    adapter = write_adapter(tmp_path / "lora.safetensors", model)
    changed = bare(model, adapter, **asked)
    assert (changed - wanted).abs().max() > 1e-3
    found = pixels(drawn(model, tmp_path / "cache", adapter, **options))
    assert torch.allclose(found, changed, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pipelines")
    for name in ("ltx", "ltx-i2v", "cogvideox"):
        build(name, directory / name)
    return directory


def test_frames_that_a_pipeline_does_not_make_are_said_and_the_receipt_has_those_it_makes(models, tmp_path):
    made = drawn(models / "ltx", tmp_path / "cache", width=32, height=32, sample_steps=1, frame_count=11)
    assert (made.parameters.frame_count, made.parameters.fps) == (9, 25)
    assert len(list(made.frames())) == 9
    assert "--f 11: LTXPipeline makes 9 frames of it" in made.warnings


def test_size_frames_and_rate_are_the_pipelines_own(models, tmp_path):
    made = drawn(models / "cogvideox", tmp_path / "cache", sample_steps=1)
    used = made.parameters
    assert (used.width, used.height, used.frame_count, used.fps, used.guidance_scale) == (32, 32, 9, 8, 6.0)
    assert torch.equal(pixels(made), bare(models / "cogvideox", num_inference_steps=1))


def test_a_clip_in_tiles_is_nearly_the_whole_one_and_the_vae_is_then_as_it_was(models, tmp_path):
    engine = Engine("cpu", tmp_path / "cache")
    prompt = Prompt(prompt=TEXT, seed=5, width=96, height=64, sample_steps=1, frame_count=5)
    whole = pixels(sample(engine, spec_of(models / "ltx"), prompt))
    options = VaeOptions(tiling=True, spatial_tile_sample_min_size=64)
    tiled = sample(engine, spec_of(models / "ltx"), prompt, vae=options)
    found = pixels(tiled)
    assert found.shape == whole.shape
    assert 0 < (found - whole).abs().mean() < 0.05
    assert any("tiles of 64 pixels" in warning for warning in tiled.warnings)
    assert torch.equal(pixels(sample(engine, spec_of(models / "ltx"), prompt)), whole)


def test_a_pipeline_that_needs_a_picture_says_so(models, tmp_path):
    with pytest.raises(PromptError, match="LTXImageToVideoPipeline"):
        drawn(models / "ltx-i2v", tmp_path / "cache", width=32, height=32, sample_steps=1, frame_count=9)


def test_a_pipeline_that_tells_nothing_of_its_steps_has_them_counted(models, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "CALLBACKS", ())
    made = drawn(models / "ltx", tmp_path / "cache", width=32, height=32, sample_steps=3, frame_count=9)
    assert made._watch.steps == [(1, 3), (2, 3), (3, 3)]
    assert "LTXPipeline tells nothing of its steps: they are counted by its scheduler" in made.warnings
