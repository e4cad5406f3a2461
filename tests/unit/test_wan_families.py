"""Wan beyond text to video: start images, control clips, two experts, on tiny models."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from engine_support import Recorder, make_job, tiny_prompt, write_lora
from family_support import as_loaded, build_tiny
from rushes.errors import ArchitectureError, ModelError, PromptError
from rushes.families.parameters import resolve
from rushes.families.table import architecture
from rushes.training.flags import add_sampling_arguments, model_from_args
from rushes.wire.jobs import SampleJob
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import DenoisedSample, Engine
from rushes_service.models.encoders.clip_vision import ClipVision, prepared
from rushes_service.models.inputs.control import control_frames
from rushes_service.models.loading.from_repo import ModelSource
from rushes_service.models.wan.t2v import WanScheduler, initial_noise

CPU = torch.device("cpu")
I2V, FUN, TWO_EXPERTS = "wan2.1-i2v", "wan2.1-fun-control", "wan2.2-t2v-a14b"
FRAMES = 5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("models")
    return {name: build_tiny(name, directory / name) for name in (I2V, FUN, TWO_EXPERTS)}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine("cpu", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures: `start.png`, `wide.png`, and a directory `control/` of as many frames as a clip has."""
    directory = tmp_path_factory.mktemp("inputs")
    picture(directory / "start.png", 32, 32, seed=1)
    picture(directory / "wide.png", 96, 32, seed=2)
    for index in range(FRAMES):
        picture(directory / "control" / f"{index:03d}.png", 48, 40, seed=10 + index)
    return directory


def picture(path: Path, width: int, height: int, seed: int) -> Path:
    """A smooth random picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def job(models: dict[str, Path], name: str, lora: Path | None = None, prompt: Any = None, **model: Any) -> SampleJob:
    """A job for the tiny model of `name`; `model` are further fields of its `ModelSpec`."""
    spec = ModelSpec(architecture=name, model=str(models[name]), **model)
    return make_job(models[name], lora, **(prompt or {})).model_copy(update={"model": spec})


def latents(engine: Engine, wanted: SampleJob) -> torch.Tensor:
    return engine.denoise(wanted, Recorder()).latents


def text_embeddings(pipe: Any, denoised: DenoisedSample) -> dict[str, torch.Tensor]:
    """What the pipeline itself makes of a sample's texts."""
    texts = {"prompt": denoised.parameters.prompt, "negative_prompt": denoised.parameters.negative_prompt}
    positive, negative = pipe.encode_prompt(**texts, max_sequence_length=512)
    return {"prompt_embeds": positive, "negative_prompt_embeds": negative}


@torch.no_grad()
def by_diffusers(pipe: Any, denoised: DenoisedSample, **options: Any) -> torch.Tensor:
    """Latents of the same sample by the pipeline of diffusers, with the reference's schedule and noise."""
    parameters = denoised.parameters
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = WanScheduler(parameters.discrete_flow_shift)
    return pipe(
        **text_embeddings(pipe, denoised),
        latents=initial_noise(parameters, CPU),
        width=parameters.width,
        height=parameters.height,
        num_frames=parameters.frame_count,
        num_inference_steps=parameters.sample_steps,
        output_type="latent",
        **{"guidance_scale": parameters.cfg_scale, **options},
    ).frames


def test_image_to_video_is_what_diffusers_makes_of_the_same_tokens(engine, models, inputs):
    start = inputs / "start.png"
    denoised = engine.denoise(job(models, I2V, prompt={"image_path": str(start)}), Recorder())
    pipe = WanImageToVideoPipeline.from_pretrained(models[I2V], image_processor=None)
    tokens = ClipVision(ModelSource(models[I2V], None), CPU).encode(Image.open(start).convert("RGB"))
    pipe.encode_image = lambda *_: tokens
    wanted = by_diffusers(pipe, denoised, image=Image.open(start))
    # Pixels are divided by 127.5 here and by 255 there.
    assert (denoised.latents - wanted).abs().max() < 1e-4


def test_tokens_are_those_of_the_pipelines_own_encoder(models, inputs):
    square = Image.open(picture(inputs / "square.png", 224, 224, seed=3)).convert("RGB")
    pipe = WanImageToVideoPipeline.from_pretrained(
        models[I2V], image_processor=lambda images, return_tensors: Prepared(pixel_values=prepared(images, 224))
    )
    with torch.no_grad():
        wanted = pipe.encode_image(square, CPU)
    found = ClipVision(ModelSource(models[I2V], None), CPU).encode(square)
    assert found.shape == (1, 257, 32)
    assert torch.equal(found, wanted)


class Prepared(dict):
    """What image processors return."""

    def to(self, _: torch.device) -> Prepared:
        return self


def test_clip_sees_the_whole_of_a_wide_picture(inputs):
    wide = Image.open(inputs / "wide.png").convert("RGB")
    margins = wide.copy()
    margins.paste((255, 0, 0), (0, 0, 8, 32))
    assert prepared(wide, 224).shape == (1, 3, 224, 224)
    assert not torch.equal(prepared(wide, 224), prepared(margins, 224))


def test_the_start_image_steers_the_clip_by_its_content_and_not_by_its_path(engine, models, inputs, tmp_path):
    def made(image: Path) -> torch.Tensor:
        return latents(engine, job(models, I2V, prompt={"image_path": str(image)}))

    copy = shutil.copy(inputs / "start.png", tmp_path / "copy.png")
    assert torch.equal(made(copy), made(inputs / "start.png"))
    picture(tmp_path / "copy.png", 32, 32, seed=99)
    assert not torch.equal(made(copy), made(inputs / "start.png"))


def test_a_full_cache_needs_neither_text_nor_image_encoder(models, inputs, tmp_path):
    model = {I2V: shutil.copytree(models[I2V], tmp_path / "wan")}
    wanted = job(model, I2V, prompt={"image_path": str(inputs / "start.png")})
    first = latents(Engine("cpu", tmp_path / "cache"), wanted)
    for part in ("text_encoder", "image_encoder"):
        unusable(model[I2V] / part / "model.safetensors")
    assert torch.equal(latents(Engine("cpu", tmp_path / "cache"), wanted), first)
    with pytest.raises(ModelError, match="image_encoder"):
        latents(Engine("cpu", tmp_path / "cache"), job(model, I2V, prompt={"image_path": str(inputs / "wide.png")}))


def unusable(file: Path) -> None:
    """Overwrite a file with zeros; by its name, size and time it stays the same."""
    facts = file.stat()
    file.write_bytes(bytes(facts.st_size))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_an_end_image_is_ignored_with_a_warning_as_the_trainers_do(engine, models, inputs):
    images = {"image_path": str(inputs / "start.png"), "end_image_path": str(inputs / "wide.png")}
    denoised = engine.denoise(job(models, I2V, prompt=images), Recorder())
    assert any("--ei is ignored" in warning for warning in denoised.warnings)


def test_a_model_of_another_kind_of_wan_is_named_before_its_weights_are_read(engine, models, inputs):
    foreign = {I2V: models[FUN]}
    with pytest.raises(ModelError, match=r"takes 48 channels \(Fun-Control\).*needs 36 \(image to video\)"):
        latents(engine, job(foreign, I2V, prompt={"image_path": str(inputs / "start.png")}))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"image_dim": None}, "no attention for image tokens"), ({"pos_embed_seq_len": 514}, "first and last frame")],
)
def test_a_relative_of_the_model_is_named_before_it_is_read(engine, models, inputs, tmp_path, change, message):
    model = {I2V: shutil.copytree(models[I2V], tmp_path / "wan")}
    config = model[I2V] / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(ModelError, match=message):
        latents(engine, job(model, I2V, prompt={"image_path": str(inputs / "start.png")}))


def control_job(models: dict[str, Path], control: Path, **options: Any) -> SampleJob:
    return job(models, FUN, prompt={"control_video_path": str(control), **options})


def test_control_start_image_and_text_each_change_the_clip(engine, models, inputs, tmp_path):
    shutil.copytree(inputs / "control", tmp_path / "other")
    picture(tmp_path / "other" / "002.png", 48, 40, seed=77)
    variants = [
        control_job(models, inputs / "control"),
        control_job(models, tmp_path / "other"),
        control_job(models, inputs / "control", image_path=str(inputs / "start.png")),
        control_job(models, inputs / "control", prompt="a blue cube"),
        control_job(models, inputs / "control", image_path=str(inputs / "start.png"), prompt="a blue cube"),
    ]
    made = [latents(engine, variant) for variant in variants]
    assert all(not torch.equal(made[i], made[j]) for i in range(len(made)) for j in range(i))


def test_sampling_without_a_start_image_leaves_the_model_ready_for_one(engine, models, inputs):
    with_image = control_job(models, inputs / "control", image_path=str(inputs / "start.png"))
    wanted = latents(engine, with_image)
    latents(engine, control_job(models, inputs / "control"))
    assert torch.equal(latents(engine, with_image), wanted)


def lossless_video(path: Path, frames: np.ndarray) -> Path:
    """A video file that holds exactly `frames`, uint8 [F, H, W, 3]."""
    size = (frames.shape[2], frames.shape[1])
    writer = imageio_ffmpeg.write_frames(path, size, codec="ffv1", pix_fmt_out="gbrp", macro_block_size=1)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    return path


def test_a_video_file_controls_as_the_directory_of_its_frames(engine, models, inputs, tmp_path):
    frames = np.stack([np.asarray(Image.open(file)) for file in sorted((inputs / "control").iterdir())])
    film = lossless_video(tmp_path / "control.mkv", np.concatenate([frames, frames]))
    assert np.array_equal(control_frames(str(film), FRAMES, 48, 40), frames)
    from_file, from_directory = (latents(engine, control_job(models, c)) for c in (film, inputs / "control"))
    assert torch.equal(from_file, from_directory)


def test_other_files_in_a_control_directory_are_passed_over(inputs, tmp_path):
    directory = shutil.copytree(inputs / "control", tmp_path / "control")
    (directory / "000.txt").write_text("a caption")
    (directory / ".DS_Store").write_bytes(b"\0")
    (directory / "._000.png").write_bytes(b"\0\5\x16\7 what macOS knows of 000.png")
    assert np.array_equal(
        control_frames(str(directory), FRAMES, 32, 32), control_frames(str(inputs / "control"), FRAMES, 32, 32)
    )


def write_bad_controls(directory: Path, inputs: Path) -> dict[str, str]:
    """Control inputs of every bad kind, and what the error says."""
    (directory / "empty").mkdir()
    (directory / "words.mp4").write_text("no video at all")
    (directory / "nothing.mp4").write_bytes(b"")
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    film = lossless_video(directory / "short.mkv", frames)
    (directory / "cut.mkv").write_bytes(film.read_bytes()[:60])
    shutil.copytree(inputs / "control", directory / "damaged")
    (directory / "damaged" / "003.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return {
        "absent": "no such file or directory",
        "empty": "has 0 pictures, but 5 are to be made",
        "words.mp4": "cannot be read as a video",
        "nothing.mp4": "cannot be read as a video",
        "cut.mkv": "cannot be read as a video",
        "short.mkv": "has 3 frames, but 5 are to be made: use --f 1",
        "damaged": "003.png",
        "x" * 300: "cannot be read",
    }


def test_each_bad_control_is_a_clear_error_before_anything_is_loaded(models, inputs, tmp_path):
    engine, watch = Engine("cpu", tmp_path / "cache"), Recorder()
    for name, message in write_bad_controls(tmp_path, inputs).items():
        with pytest.raises(PromptError, match=message) as caught:
            engine.denoise(control_job(models, tmp_path / name), watch)
        assert str(caught.value).startswith("--cn")
    assert watch.stages == []


def test_every_step_is_taken_where_timesteps_round_to_the_same_number():
    """As they do from 76 steps on at the default shift, where the reference fails."""
    scheduler, latents = WanScheduler(14.5), torch.ones(1, 16, 1, 2, 2)
    scheduler.set_timesteps(100)
    assert scheduler.timesteps[0] == scheduler.timesteps[1]
    for timestep in scheduler.timesteps:
        latents = scheduler.step(torch.zeros_like(latents), timestep, latents, return_dict=False)[0]
    assert scheduler.step_index == 100
    assert torch.allclose(latents, torch.ones_like(latents))


def test_a_picture_that_would_fill_the_memory_is_refused_unread(models, tmp_path):
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    watch = Recorder()
    with pytest.raises(PromptError, match=r"--i .*bomb\.png"):
        Engine("cpu", tmp_path).denoise(job(models, I2V, prompt={"image_path": str(tmp_path / "bomb.png")}), watch)
    assert watch.stages == []


@pytest.mark.parametrize(("experts", "component"), [("low", "transformer_2"), ("high", "transformer")])
def test_one_expert_is_what_diffusers_makes_of_it_alone(engine, models, experts, component):
    denoised = engine.denoise(job(models, TWO_EXPERTS, experts=experts), Recorder())
    whole = as_loaded(WanPipeline.from_pretrained(models[TWO_EXPERTS]))
    alone = WanPipeline(
        tokenizer=whole.tokenizer,
        text_encoder=whole.text_encoder,
        vae=whole.vae,
        scheduler=whole.scheduler,
        transformer=getattr(whole, component),
    )
    assert torch.equal(denoised.latents, by_diffusers(alone, denoised))
    assert denoised.parameters.cfg_scale == 3.0
    assert any("noise alone" in warning for warning in denoised.warnings)


@pytest.mark.parametrize("asked", [None, 2.0])
def test_both_experts_are_what_diffusers_makes_of_them(engine, models, asked):
    prompt = {"sample_steps": 4, "discrete_flow_shift": 3.0, "cfg_scale": asked}
    denoised = engine.denoise(job(models, TWO_EXPERTS, prompt=prompt, experts="both"), Recorder())
    high, low = (asked, asked) if asked else (4.0, 3.0)
    pipe = as_loaded(WanPipeline.from_pretrained(models[TWO_EXPERTS]))
    assert torch.equal(denoised.latents, by_diffusers(pipe, denoised, guidance_scale=high, guidance_scale_2=low))
    assert denoised.warnings == ()
    assert (denoised.facts()["experts"], denoised.facts()["boundary"]) == ("both", 0.875)


def test_a_lora_goes_into_the_expert_it_is_for_and_out_again(engine, models, tmp_path):
    lora = write_lora(tmp_path / "lora.safetensors", alpha=8.0, blocks=1)

    def made(lora: Path | None, **model: Any) -> torch.Tensor:
        prompt = {"sample_steps": 4, "discrete_flow_shift": 3.0}
        return latents(engine, job(models, TWO_EXPERTS, lora, prompt, experts="both", **model))

    base = made(None)
    every, high, low = made(lora), made(lora, lora_expert="high"), made(lora, lora_expert="low")
    assert not any(torch.equal(a, b) for a, b in [(base, every), (base, high), (base, low), (every, high), (high, low)])
    assert torch.equal(made(None), base)


def test_a_whole_checkpoint_replaces_the_expert_it_is_of(engine, models, tmp_path):
    weights = load_file(next((models[TWO_EXPERTS] / "transformer_2").glob("*.safetensors")))
    tuned = {name: tensor + 0.1 for name, tensor in weights.items()}
    original = {re.sub(r"(blocks\.\d+)\.scale_shift_table", r"\1.modulation", name): t for name, t in tuned.items()}
    save_file(original, tmp_path / "whole.safetensors")
    whole = job(models, TWO_EXPERTS, tmp_path / "whole.safetensors", experts="both", lora_expert="low")
    latents(engine, whole)
    state = engine.loaded.base.transformer.state_dict()
    assert all(torch.equal(state[f"low.{name}"], tensor) for name, tensor in tuned.items())
    assert any(not torch.equal(state[f"high.{name}"], tensor) for name, tensor in tuned.items())


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("wan2.1-t2v", {"experts": "both"}, "has one transformer"),
        (TWO_EXPERTS, {"experts": "high", "lora_expert": "low"}, "needs --rushes_experts both"),
        (TWO_EXPERTS, {"lora_expert": "high"}, "needs --rushes_experts both"),
    ],
)
def test_a_choice_of_experts_that_cannot_be_is_refused(name, model, message):
    with pytest.raises(ArchitectureError, match=message):
        resolve(tiny_prompt(), architecture(name), ModelSpec(architecture=name, **model))


def test_the_trainers_flags_choose_the_experts():
    parser = argparse.ArgumentParser()
    add_sampling_arguments(parser)

    def chosen(*flags: str) -> tuple[str, str | None]:
        model = model_from_args(vars(parser.parse_args(flags)), TWO_EXPERTS, "a/model")
        return model.experts, model.lora_expert

    assert chosen() == ("low", None)
    assert chosen("--rushes_experts", "both", "--rushes_lora_expert", "high") == ("both", "high")


def test_the_boundary_is_the_models_own(models, tmp_path):
    model = {TWO_EXPERTS: shutil.copytree(models[TWO_EXPERTS], tmp_path / "wan")}
    index = model[TWO_EXPERTS] / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "boundary_ratio": 0.5}))
    engine = Engine("cpu", tmp_path / "cache")
    denoised = engine.denoise(job(model, TWO_EXPERTS, experts="both"), Recorder())
    assert denoised.facts()["boundary"] == 0.5
