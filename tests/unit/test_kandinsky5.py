"""What is special about Kandinsky 5."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from family_support import tiny_model_spec
from golden_support import sample
from rushes.errors import ArchitectureError
from rushes.families.parameters import resolve
from rushes.families.table import ARCHITECTURES
from rushes.submission.build import Run, build_jobs
from rushes.submission.sweeps import sweep_jobs
from rushes.wire.jobs import Checkpoint, Prompt
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.kandinsky5.start_image import fitting
from rushes_service.models.kandinsky5.text import Kandinsky5Text, template
from rushes_service.models.loading import from_files
from rushes_service.models.loading.from_repo import ModelSource

T2V, I2V, T2I = (ARCHITECTURES[f"kandinsky5-{kind}"] for kind in ("t2v", "i2v", "t2i"))
NEGATIVE = "low quality, bad quality"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kandinsky5")


def made(model: ModelSpec, directory: Path, **options: Any) -> Any:
    asked = {"width": 32, "height": 32, "sample_steps": 2, "seed": 3, "frame_count": 1, **options}
    return sample(Engine("cpu", directory / "cache"), model, Prompt(prompt="a red ball", **asked))


@pytest.mark.parametrize(("asked", "pictures"), [(None, 17), (1, 1), (2, 5), (31, 121)])
def test_frames_are_counted_as_latents(asked: int | None, pictures: int) -> None:
    assert resolve(Prompt(prompt="a", frame_count=asked), T2V)[0].frame_count == pictures


def test_what_a_prompt_leaves_out_is_the_tasks() -> None:
    distilled = ModelSpec(architecture=T2V.name, model_version="k5-lite-t2v-5s-distil-sd")
    found = [
        (parameters.width, parameters.sample_steps, parameters.guidance_scale, parameters.negative_prompt)
        for parameters, _ in (
            resolve(Prompt(prompt="a", image_path="i.png" if spec is I2V else None), spec, model)
            for spec, model in ((T2V, None), (I2V, None), (T2I, None), (T2V, distilled))
        )
    ]
    assert found == [
        (512, 50, 5.0, NEGATIVE),
        (512, 50, 5.0, NEGATIVE),
        (1024, 50, 3.5, NEGATIVE),
        (512, 16, 1.0, None),
    ]


@pytest.mark.parametrize(
    ("guidance", "negative", "used"), [(0.5, "", NEGATIVE), (1.0, "ugly", None), (2.0, "ugly", "ugly")]
)
def test_guidance_is_off_at_one_alone(guidance: float, negative: str, used: str | None) -> None:
    parameters, warnings = resolve(Prompt(prompt="a", guidance_scale=guidance, negative_prompt=negative), T2V)
    assert parameters.negative_prompt == used
    assert any("--n is not used" in warning and "--g 1" in warning for warning in warnings) is (used is None)


def test_a_prompt_without_a_seed_is_sampled_with_the_trainers_42(tmp_path: Path) -> None:
    run = Run(name="r", model=ModelSpec(architecture=T2V.name), output_dir=str(tmp_path))
    (job,) = build_jobs(run, [Prompt(prompt="a")])
    assert job.prompt.seed == 42
    checkpoint = Checkpoint(path=str(tmp_path / "a.safetensors"), fingerprint="0" * 64)
    swept = sweep_jobs(run, [(0, Prompt(prompt="a"))], checkpoint, step=1, strengths=(1.0,), seeds=2)
    assert {job.prompt.seed for job in swept} == {42, 43}


@pytest.mark.parametrize(
    ("size", "fit"), [((96, 64), (96, 64)), ((1536, 1024), (768, 512)), ((30, 1000), (32, 992)), ((5, 5), (16, 16))]
)
def test_a_clip_has_the_size_of_its_start_image(size: tuple[int, int], fit: tuple[int, int]) -> None:
    assert fitting(*size) == fit


def test_a_start_image_gives_the_size_and_stands_still_at_first(directory: Path, tmp_path: Path) -> None:
    Image.new("RGB", (48, 64), (200, 30, 30)).save(tmp_path / "start.png")
    model = tiny_model_spec(I2V.name, directory)
    denoised = made(model, tmp_path, frame_count=2, width=256, image_path=str(tmp_path / "start.png"))
    assert denoised.parameters.width == 48
    assert denoised.latents.shape == (1, 16, 2, 8, 6)
    assert "--w is ignored: --i gives the size" in denoised.warnings
    words = made(tiny_model_spec(T2V.name, directory), tmp_path, frame_count=2, width=48, height=64)
    assert not torch.equal(denoised.latents, words.latents)


@pytest.mark.parametrize("task", ["k5-lite-t2v-10s-sd", "k5-pro-i2v-5s-hd", "k5-lite-i2i-hd"])
def test_a_task_that_cannot_be_sampled_is_refused_with_the_reason(task: str) -> None:
    with pytest.raises(ArchitectureError, match=f"--task {task}: it .* Rushes cannot"):
        resolve(Prompt(prompt="a"), T2V, ModelSpec(architecture=T2V.name, model_version=task))


def test_a_model_published_with_sparse_attention_bears_a_warning(directory: Path, tmp_path: Path) -> None:
    whole = Path(str(tiny_model_spec(T2V.name, directory).model))
    copy = Path(shutil.copytree(whole, tmp_path / "sparse"))
    config = copy / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "attention_type": "nabla"}))
    model = ModelSpec(architecture=T2V.name, model=str(copy))
    assert any("sparse attention (nabla)" in warning for warning in made(model, tmp_path).warnings)
    pro = model.model_copy(update={"model_version": "k5-pro-t2v-5s-sd"})
    assert made(pro, tmp_path).warnings == ()


def test_texts_are_embedded_without_the_system_prompt_and_clipped(directory: Path) -> None:
    source = ModelSource(Path(str(tiny_model_spec(T2V.name, directory).model)), None)
    encoder = Kandinsky5Text(source, torch.device("cpu"), torch.float32)
    text = "a red ball"
    found = encoder.encode(text, picture=False, most=256)
    assert found["embeds"].shape[1] == len(text) + 1  # and the end of the user's turn
    assert not torch.equal(found["embeds"], encoder.encode(text, picture=True, most=256)["embeds"])
    assert encoder.encode(text * 100, picture=True, most=512)["embeds"].shape[1] == 512
    words, model, _, _ = encoder.loaded
    before, after = template(picture=False)
    with torch.no_grad():
        whole = model(**words(before + text + after, return_tensors="pt")).last_hidden_state
    assert torch.equal(found["embeds"], whole[:, -len(text) - 1 :])


def test_text_encoders_may_be_named_by_their_repositories(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_model_spec(T2V.name, directory)
    parts = Path(str(whole.model))
    for name in ("", "_2"):  # a repository holds an encoder and its tokenizer side by side
        here = tmp_path / f"encoder{name}"
        shutil.copytree(parts / f"text_encoder{name}", here)
        shutil.copytree(parts / f"tokenizer{name}", here, dirs_exist_ok=True)
    repositories = {"Qwen/Qwen2.5-VL": tmp_path / "encoder", "openai/clip": tmp_path / "encoder_2"}
    monkeypatch.setattr(from_files, "download", lambda repo, _parts, _variant: repositories[repo])
    named = whole.model_copy(update={"text_encoder_qwen": "Qwen/Qwen2.5-VL", "text_encoder_clip": "openai/clip"})
    assert torch.equal(made(named, tmp_path / "a").latents, made(whole, tmp_path / "b").latents)
