"""HunyuanVideo and SkyReels V1 on tiny models, through the engine and into files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from engine_support import Recorder, tiny_prompt
from family_support import build_tiny
from rushes.checkpoints.safetensors import fingerprint
from rushes.errors import ArchitectureError, LoraValue, ModelError, PromptError
from rushes.wire.jobs import Checkpoint, SampleJob, VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import DenoisedSample, Engine
from rushes_service.media.writing import write_media
from rushes_service.models.hunyuan.tiny import build_tiny_hunyuan_i2v_33

FAMILIES = ("hunyuan-video", "hunyuan-video-i2v", "skyreels-v1-t2v", "skyreels-v1-i2v")
WITH_IMAGE = ("hunyuan-video-i2v", "skyreels-v1-i2v")
GUIDED = ("skyreels-v1-t2v", "skyreels-v1-i2v")


@dataclass(frozen=True)
class Studio:
    """Tiny models of all families, an engine and a picture to start from."""

    models: dict[str, Path]
    engine: Engine
    picture: Path

    def job(self, family: str, *, vae: VaeOptions | None = None, lora: Path | None = None, **options: Any) -> SampleJob:
        """A job for the tiny model of `family`, with a picture if it needs one; `options` are the prompt's."""
        name = family.removesuffix("-33ch")
        if name in WITH_IMAGE:
            options = {"image_path": str(self.picture), **options}
        return SampleJob(
            id="0" * 32,
            run="test",
            submission="test",
            model=ModelSpec(architecture=name, model=str(self.models[family])),
            vae=vae or VaeOptions(),
            checkpoint=Checkpoint(path=str(lora), fingerprint=fingerprint(lora)) if lora else None,
            prompt=tiny_prompt(**options),
            output_dir="/nowhere",
        )

    def denoised(self, family: str, engine: Engine | None = None, **options: Any) -> DenoisedSample:
        return (engine or self.engine).denoise(self.job(family, **options), Recorder())

    def frames(self, family: str, engine: Engine | None = None, **options: Any) -> np.ndarray:
        return np.stack(list(self.denoised(family, engine, **options).frames()))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    directory = tmp_path_factory.mktemp("hunyuan")
    models = {family: build_tiny(family, directory / family) for family in FAMILIES}
    models["hunyuan-video-i2v-33ch"] = build_tiny_hunyuan_i2v_33(directory / "33")
    noise = np.random.default_rng(0).integers(0, 255, (10, 15, 3), dtype=np.uint8)
    picture = directory / "start.png"
    Image.fromarray(noise).resize((60, 40)).save(picture)
    return Studio(models, Engine("cpu", directory / "cache"), picture)


ALL = (*FAMILIES, "hunyuan-video-i2v-33ch")


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("count", [1, 5, 9])
def test_a_sample_has_the_size_and_frames_asked_for(studio, family, count):
    clip = studio.frames(family, frame_count=count, width=48)
    assert (clip.shape, clip.dtype) == ((count, 32, 48, 3), np.uint8)
    assert clip.std() > 20


@pytest.mark.parametrize("family", ALL)
def test_the_same_job_twice_makes_identical_frames_with_and_without_the_cache(studio, family, tmp_path):
    options = {"prompt": f"never seen before by {family}", "negative_prompt": "blurred", "cfg_scale": 2.0}
    fresh = Engine("cpu", tmp_path / "cache")
    cold = studio.frames(family, fresh, **options)
    assert list((tmp_path / "cache").rglob("*.safetensors"))
    assert np.array_equal(cold, studio.frames(family, fresh, **options))
    assert np.array_equal(cold, studio.frames(family, **options))


@pytest.mark.parametrize("family", ALL)
def test_prompt_seed_and_shift_each_change_the_picture(studio, family):
    base = studio.frames(family).astype(int)
    for change in ({"prompt": "a blue cube"}, {"seed": 4}, {"discrete_flow_shift": 3.0}):
        assert np.abs(studio.frames(family, **change) - base).mean() > 0.2, change


@pytest.mark.parametrize("family", WITH_IMAGE)
def test_the_picture_changes_the_sample(studio, family, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (32, 32), (250, 20, 20)).save(other)
    base = studio.frames(family).astype(int)
    assert np.abs(studio.frames(family, image_path=str(other)) - base).mean() > 0.2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("count", "suffix"), [(1, ".png"), (5, ".mp4")])
def test_files_are_written_at_24_frames_a_second(studio, family, count, suffix, tmp_path):
    denoised = studio.denoised(family, frame_count=count)
    written = write_media(
        denoised.frames(),
        tmp_path / f"sample{suffix}",
        job_id="1",
        frame_count=denoised.parameters.frame_count,
        fps=denoised.parameters.fps,
        receipt=denoised.facts,
        guard=lambda: None,
    )
    assert (written.width, written.height, written.frame_count) == (32, 32, count)
    parameters = json.loads(written.receipt_path.read_text())["parameters"]
    assert (parameters["frame_count"], parameters["fps"]) == (count, 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_needs_a_negative_prompt_and_a_scale_other_than_one(studio, family):
    def latents(**options: Any) -> torch.Tensor:
        return studio.denoised(family, **options).latents

    plain = latents()
    assert torch.equal(latents(cfg_scale=6.0), plain)
    assert torch.equal(latents(cfg_scale=1.0, negative_prompt="blurred"), plain)
    assert not torch.equal(latents(cfg_scale=6.0, negative_prompt="blurred"), plain)
    only_negative = latents(negative_prompt="blurred")
    assert torch.equal(only_negative, plain) == (family not in GUIDED)


@pytest.mark.parametrize("family", ["hunyuan-video", "skyreels-v1-i2v"])
def test_a_scale_below_one_guides_as_well(studio, family):
    plain = studio.denoised(family).latents
    assert not torch.equal(studio.denoised(family, cfg_scale=0.5, negative_prompt="blurred").latents, plain)


def test_embedded_guidance_has_the_familys_own_default(studio):
    for family, own in {"hunyuan-video": 6.0, "skyreels-v1-t2v": 1.0}.items():
        default = studio.denoised(family).latents
        assert torch.equal(studio.denoised(family, guidance_scale=own).latents, default)
        assert not torch.equal(studio.denoised(family, guidance_scale=3.0).latents, default)


def test_embedded_guidance_of_zero_is_zero(studio):
    zero, one = (studio.denoised("hunyuan-video", guidance_scale=scale).latents for scale in (0.0, 1.0))
    assert not torch.equal(zero, one)


def test_options_without_effect_and_approximations_are_warned_of(studio):
    vae = VaeOptions(chunk_size=8, spatial_tile_sample_min_size=32)
    options = {"width": 64, "end_image_path": "x.png", "control_video_path": "y.mp4", "negative_prompt": "blurred"}
    text = " | ".join(studio.denoised("hunyuan-video", vae=vae, **options).warnings)
    assert "--ei is ignored" in text
    assert "--cn is ignored" in text
    assert "--n is not used" in text
    assert "tiles of 32 pixels: approximate" in text
    assert "--vae_chunk_size" not in text
    assert "--g is ignored" in " | ".join(studio.denoised("hunyuan-video-i2v-33ch").warnings)
    assert "add --n and --l 6" in " | ".join(studio.denoised("skyreels-v1-t2v").warnings)
    assert "stretched to 32x32" in " | ".join(studio.denoised("hunyuan-video-i2v").warnings)


def test_chunks_change_no_pixel_and_tiles_do(studio):
    base = studio.frames("hunyuan-video", width=64)
    assert np.array_equal(studio.frames("hunyuan-video", width=64, vae=VaeOptions(chunk_size=8)), base)
    tiled = studio.frames("hunyuan-video", width=64, vae=VaeOptions(spatial_tile_sample_min_size=32))
    assert tiled.shape == base.shape
    assert not np.array_equal(tiled, base)


@pytest.mark.parametrize("family", WITH_IMAGE)
def test_a_missing_or_unreadable_picture_is_refused_before_anything_is_loaded(studio, family, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    whole = studio.picture.read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    wrong = {
        None: (ArchitectureError, "needs --i"),
        str(tmp_path / "none.png"): (PromptError, "no such file"),
        str(tmp_path / "text.png"): (PromptError, "no picture"),
        str(tmp_path / "cut.png"): (PromptError, "cannot be read"),
        str(tmp_path / "huge.png"): (PromptError, "too large|at most"),
    }
    for path, (error, message) in wrong.items():
        engine, watch = Engine("cpu", tmp_path / "cache"), Recorder()
        with pytest.raises(error, match=message):
            engine.denoise(studio.job(family, image_path=path), watch)
        assert watch.stages == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_flow_shift_of_zero_is_refused(studio, family):
    with pytest.raises(PromptError, match="--fs 0"):
        studio.denoised(family, discrete_flow_shift=0.0)


def test_a_scale_that_the_image_pipeline_would_pass_over_is_refused(studio):
    with pytest.raises(PromptError, match=r"--l 0.5"):
        studio.denoised("hunyuan-video-i2v", cfg_scale=0.5, negative_prompt="blurred")


def test_a_model_of_another_kind_is_a_clear_error(studio):
    for family, other in {
        "hunyuan-video": "skyreels-v1-i2v",
        "skyreels-v1-i2v": "hunyuan-video",
        "hunyuan-video-i2v": "hunyuan-video",
    }.items():
        job = studio.job(family)
        job = job.model_copy(update={"model": job.model.model_copy(update={"model": str(studio.models[other])})})
        with pytest.raises(ModelError, match=r"this architecture needs|input channels"):
            studio.engine.denoise(job, Recorder())


def lora_of(rows: int, rank: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    return {
        f"{name}.lora_down.weight": torch.randn(rank, 32, generator=generator),
        f"{name}.lora_up.weight": torch.randn(rows, rank, generator=generator),
        f"{name}.alpha": torch.tensor(1.0),
    }


def test_a_fused_delta_is_split_over_query_key_and_value(studio, tmp_path):
    path = tmp_path / "lora.safetensors"
    tensors = lora_of(96)
    save_file(tensors, path)
    base = {name: weight.clone() for name, weight in live_weights(studio, "hunyuan-video").items()}
    report = studio.denoised("hunyuan-video", lora=path).facts()["lora"]
    assert (report["matched"], report["unmatched"], report["modules"]) == (3, 0, 3)
    up, down = tensors["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"], next(iter(tensors.values()))
    delta = 0.5 * up @ down
    live = live_weights(studio, "hunyuan-video", loaded=True)
    for part, layer in enumerate(("to_q", "to_k", "to_v")):
        name = f"transformer_blocks.0.attn.{layer}.weight"
        assert torch.allclose(live[name], base[name] + delta[32 * part : 32 * (part + 1)], atol=1e-6)


def test_a_fused_delta_of_another_size_is_a_clear_error(studio, tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file(lora_of(100), path)
    with pytest.raises(LoraValue, match=r"\[96, 32\] in the model .* but \[100, 32\]"):
        studio.denoised("hunyuan-video", lora=path)


def live_weights(studio: Studio, family: str, *, loaded: bool = False) -> dict[str, torch.Tensor]:
    """The transformer's weights as they are; without `loaded` those of the base model."""
    if not loaded:
        studio.denoised(family)
    return studio.engine.loaded.base.transformer.state_dict()


def test_bfloat16_keeps_latents_in_full_precision_between_steps(studio, tmp_path):
    job = studio.job("hunyuan-video")
    job = job.model_copy(update={"model": job.model.model_copy(update={"dtype": "bfloat16"})})
    denoised = Engine("cpu", tmp_path).denoise(job, Recorder())
    assert denoised.latents.dtype == torch.float32
    assert denoised.facts()["dtype"] == "bfloat16"
    assert np.stack(list(denoised.frames())).std() > 20
