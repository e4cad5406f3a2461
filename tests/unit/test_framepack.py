"""FramePack through the engine, with a tiny model: clips by sections, single pictures, and their mistakes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine_support import Recorder
from family_support import build_tiny
from rushes.errors import ArchitectureError, ModelError, PromptError, SampleCancelled
from rushes.wire.jobs import Prompt, SampleJob
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.media.naming import sample_path
from rushes_service.media.writing import write_media
from rushes_service.models.framepack import source
from rushes_service.models.framepack.video import FramePack

WINDOW = 2
FAMILIES = ("framepack", "framepack-one-frame")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny("framepack", tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a.png` and `b.png`, neither of the sample's size, and `clear.png`, all transparent."""
    directory = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(directory / "a.png")
    Image.fromarray(draw.integers(0, 255, (24, 20, 3), dtype=np.uint8)).save(directory / "b.png")
    Image.fromarray(np.dstack([np.full((32, 32, 3), 200, np.uint8), np.zeros((32, 32), np.uint8)])).save(
        directory / "clear.png"
    )
    return directory


@dataclass
class Sampler:
    """Samples with the tiny model; `engine` may be replaced."""

    engine: Engine
    model: Path
    images: Path

    def job(self, family: str, *, f1: bool = False, **options: Any) -> SampleJob:
        defaults = {"prompt": "a red ball", "width": 32, "height": 32, "sample_steps": 2, "seed": 3}
        for name in ("image_path", "control_image_path"):
            options[name] = self.located(options.get(name, "a.png" if name == "image_path" else ()))
        return SampleJob(
            id="0" * 32,
            run="test",
            submission="test",
            model=ModelSpec(architecture=family, model=str(self.model), f1=f1, latent_window_size=WINDOW),
            prompt=Prompt(**{**defaults, **options}),
            output_dir="/",
            submitted_at=1_700_000_000.0,
        )

    def located(self, name: Any) -> Any:
        if isinstance(name, tuple):
            return tuple(self.located(item) for item in name)
        return name and str(self.images / name)

    def frames(self, family: str, watch: Recorder | None = None, **options: Any) -> np.ndarray:
        denoised = self.engine.denoise(self.job(family, **options), watch or Recorder())
        return np.stack(list(denoised.frames()))


@pytest.fixture(scope="module")
def sampler(tiny: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    return Sampler(Engine("cpu", tmp_path_factory.mktemp("cache")), tiny, images)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_makes_the_same_frames_and_another_does_not(sampler, family):
    first = sampler.frames(family)
    assert np.array_equal(first, sampler.frames(family))
    assert not np.array_equal(first, sampler.frames(family, seed=4))


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_and_images_show_in_the_frames(sampler, family):
    first = sampler.frames(family)
    assert not np.array_equal(first, sampler.frames(family, prompt="a blue cube"))
    assert not np.array_equal(first, sampler.frames(family, image_path="b.png"))
    assert not np.array_equal(first, sampler.frames(family, cfg_scale=3.0))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_cache_replaces_the_encoders_without_a_difference(sampler, family, tmp_path):
    model = shutil.copytree(sampler.model, tmp_path / "model", copy_function=shutil.copy2)
    copy = Sampler(Engine("cpu", tmp_path / "cache", encoder_bytes=0), model, sampler.images)
    computed = copy.frames(family)
    for component in ("text_encoder", "text_encoder_2", "image_encoder"):
        shutil.move(model / component, tmp_path / component)
    cached = copy.frames(family)
    assert np.array_equal(computed, cached)
    with pytest.raises(ModelError, match="text_encoder"):
        copy.frames(family, prompt="a prompt that is not cached")
    with pytest.raises(ModelError, match="image_encoder"):
        copy.frames(family, image_path="b.png")


def test_f1_makes_another_clip_of_the_same_length(sampler):
    inverted, forward = (sampler.frames("framepack", f1=f1, frame_count=17) for f1 in (False, True))
    assert inverted.shape == forward.shape == (17, 32, 32, 3)
    assert not np.array_equal(inverted, forward)


def test_progress_counts_the_steps_of_all_sections(sampler):
    watch = Recorder()
    sampler.frames("framepack", watch, frame_count=25)
    steps = [(done, total) for done, total in watch.steps if total == 6]
    assert steps == [(done, 6) for done in range(1, 7)]


def test_a_sample_cancelled_between_sections_leaves_the_engine_usable(sampler):
    wanted = sampler.frames("framepack", frame_count=17)
    with pytest.raises(SampleCancelled):
        sampler.frames("framepack", Recorder(stop_at=3, stop=SampleCancelled("enough")), frame_count=17)
    assert np.array_equal(sampler.frames("framepack", frame_count=17), wanted)


@pytest.mark.parametrize(
    ("family", "options", "shape"),
    [("framepack", {"frame_count": 9}, (9, 48, 32)), ("framepack-one-frame", {}, (1, 48, 32))],
)
def test_each_family_ends_as_a_media_file(sampler, tmp_path, family, options, shape):
    job = sampler.job(family, height=48, **options).model_copy(update={"output_dir": str(tmp_path)})
    denoised = sampler.engine.denoise(job, Recorder())
    written = write_media(
        denoised.frames(),
        sample_path(job, denoised.parameters),
        job_id=job.id,
        frame_count=denoised.parameters.frame_count,
        fps=denoised.parameters.fps,
        receipt=denoised.facts,
        guard=lambda: None,
    )
    assert (written.frame_count, written.height, written.width) == shape
    assert written.media_type == ("video/mp4" if shape[0] > 1 else "image/png")
    assert denoised.parameters.fps == 30


def test_a_transparent_control_image_is_as_none_at_all(sampler):
    without = sampler.frames("framepack-one-frame", one_frame="control_index=3")
    clear = sampler.frames("framepack-one-frame", control_image_path=("clear.png",), one_frame="control_index=3")
    opaque = sampler.frames("framepack-one-frame", control_image_path=("b.png",), one_frame="control_index=3")
    assert np.array_equal(without, clear)
    assert not np.array_equal(without, opaque)


@pytest.mark.parametrize("one_frame", ["target_index=9", "control_index=5", "no_2x", "no_4x", "no_post"])
def test_each_option_of_a_picture_changes_it(sampler, one_frame):
    plain = sampler.frames("framepack-one-frame", control_image_path=("b.png",))
    changed = sampler.frames("framepack-one-frame", control_image_path=("b.png",), one_frame=one_frame)
    assert not np.array_equal(plain, changed)


def test_the_default_target_is_the_end_of_a_section(sampler):
    assert np.array_equal(
        sampler.frames("framepack-one-frame"), sampler.frames("framepack-one-frame", one_frame=f"target_index={WINDOW}")
    )


def test_more_control_indices_than_frames_are_a_warning(sampler):
    job = sampler.job("framepack-one-frame", control_image_path=("b.png",), one_frame="control_index=0;1;2;3")
    denoised = sampler.engine.denoise(job, Recorder())
    assert any("the last 2 of its indices are ignored" in warning for warning in denoised.warnings)
    assert denoised.facts()["control_index"] == [0, 1]


def write_huge(path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(path)


def write_cut_short(path: Path) -> None:
    Image.new("RGB", (64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: path.write_text("no picture"), "no picture"),
        (write_cut_short, "cannot be read|no picture"),
        (write_huge, "20000 x 20000|too large"),
        (lambda path: Image.new("RGB", (10_000, 2)).save(path), "too narrow"),
    ],
)
@pytest.mark.parametrize("field", ["image_path", "control_image_path"])
def test_a_wrong_image_is_named_before_anything_is_loaded(
    sampler, tmp_path, write: Callable[[Path], object], reason, field
):
    path = tmp_path / "image.png"
    write(path)
    watch = Recorder()
    options = {field: str(path) if field == "image_path" else (str(path),)}
    with pytest.raises(PromptError, match=reason) as caught:
        sampler.engine.denoise(sampler.job("framepack-one-frame", **options), watch)
    assert str(path) in str(caught.value)
    assert watch.stages == []


def test_missing_inputs_are_named_before_anything_is_loaded(sampler):
    watch = Recorder()
    with pytest.raises(ArchitectureError, match="needs --i"):
        sampler.engine.denoise(sampler.job("framepack", image_path=None), watch)
    with pytest.raises(PromptError, match="--f 8 is too short"):
        sampler.engine.denoise(sampler.job("framepack", frame_count=8), watch)
    assert watch.stages == []


@pytest.fixture
def bare(sampler, tmp_path, monkeypatch) -> ModelSpec:
    """A transformer alone, as its authors publish it, and a hub cache that holds the rest."""
    for repo in {*source.REPOS.values()}:
        snapshot = tmp_path / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / "abc123"
        for part in (part for part, home in source.REPOS.items() if home == repo):
            shutil.copytree(sampler.model / part, snapshot / part)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return ModelSpec(architecture="framepack", model=str(sampler.model / "transformer"), latent_window_size=WINDOW)


def test_a_bare_transformer_takes_the_other_parts_from_the_hub(sampler, bare, tmp_path):
    job = sampler.job("framepack").model_copy(update={"model": bare})
    denoised = Engine("cpu", tmp_path / "cache").denoise(job, Recorder())
    assert np.array_equal(np.stack(list(denoised.frames())), sampler.frames("framepack"))


def test_another_familys_transformer_is_refused(sampler, tmp_path):
    for name, text in {"vae": '{"_class_name": "AutoencoderKLWan"}', "junk": "{"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
        job = sampler.job("framepack")
        job = job.model_copy(update={"model": job.model.model_copy(update={"model": str(tmp_path / name)})})
        with pytest.raises(ModelError, match=r"AutoencoderKLWan, but FramePack needs|cannot be read"):
            sampler.engine.denoise(job, Recorder())


def test_loras_of_hunyuan_video_fit_with_their_fused_modules(sampler):
    base = FramePack(sampler.job("framepack").model, torch.device("cpu"), torch.float32)
    base.load()
    table = base.lora_names()
    fused = table.find("double_blocks_0_img_attn_qkv", flat=True)
    assert [target.module for target in fused] == [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    single = table.find("single_blocks.0.linear1", flat=False)
    assert [target.module.rpartition(".")[2] for target in single] == ["to_q", "to_k", "to_v", "proj_mlp"]
    own = table.find("single_transformer_blocks_0_proj_mlp", flat=True)
    assert [target.module for target in own] == ["single_transformer_blocks.0.proj_mlp"]


def test_bfloat16_works_on_the_cpu_too(sampler, tmp_path):
    job = sampler.job("framepack", f1=True)
    job = job.model_copy(update={"model": job.model.model_copy(update={"dtype": "bfloat16"})})
    denoised = Engine("cpu", tmp_path).denoise(job, Recorder())
    assert torch.isfinite(denoised.latents).all()
    assert denoised.facts()["dtype"] == "bfloat16"
