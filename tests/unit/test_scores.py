"""Scores: a real CLIP with tiny weights, plug-ins by entry point, and what a wrong flag says."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_support import tiny_clip
from rushes.errors import ConfigError
from rushes_service.scores import registry
from rushes_service.scores.registry import ScoreOptions, make_scores


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def noise(seed: int, frames: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (frames, 40, 56, 3), dtype=np.uint8)


def test_pictures_and_prompt_agree_by_the_models_own_cosine(clip_dir: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    frames = noise(1)
    found = make_scores([f"clip={clip_dir}"])["clip"](frames, "a cat")

    model, processor = CLIPModel.from_pretrained(clip_dir).eval(), CLIPProcessor.from_pretrained(clip_dir)
    inputs = processor(text=["a cat"], images=[Image.fromarray(frame) for frame in frames], return_tensors="pt")
    logits = model(**inputs).logits_per_image / model.logit_scale.exp()
    assert found == {"clip": pytest.approx(float(logits.detach().mean()), abs=1e-5)}


def test_training_pictures_give_the_mean_and_the_nearest(clip_dir: Path, tmp_path: Path) -> None:
    for seed in range(3):
        Image.fromarray(noise(seed, 1)[0]).save(tmp_path / f"{seed}.png")
    score = make_scores([f"clip={clip_dir}"], images=tmp_path)["clip"]

    memorised, other = score(noise(2, 1), "a cat"), score(noise(9, 1), "a cat")

    assert memorised["clip_nearest"] == pytest.approx(1, abs=1e-5)
    assert other["clip_nearest"] < memorised["clip_nearest"]
    assert memorised["clip_images"] <= memorised["clip_nearest"]


def test_an_installed_package_adds_a_score(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = (
        "def make(options):\n"
        "    return lambda frames, prompt: {'bright': float(frames.mean()), 'words': len(prompt.split())}\n"
    )
    (tmp_path / "my_score.py").write_text(program)
    info = tmp_path / "my_score-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-score\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rushes.scores]\nbright = my_score:make\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()

    score = make_scores(["bright"])["bright"]

    assert score(np.full((1, 2, 2, 3), 7, np.uint8), "a red ball") == {"bright": 7.0, "words": 3}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["nothing"], "there are: bad, clip"),
        (["clip"], "name a directory or a hub id"),
        (["clip=/nowhere"], "--score clip=/nowhere"),
        (["bad", "bad"], "twice"),
    ],
)
def test_a_wrong_flag_is_a_sentence(texts: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, "bad": lambda options: lambda frames, prompt: {}})

    with pytest.raises(ConfigError, match=message):
        make_scores(texts)


def test_a_factory_that_raises_names_its_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: ScoreOptions) -> registry.Score:
        raise RuntimeError("no such file")

    monkeypatch.setattr(registry, "BUILT_IN", {"broken": broken})

    with pytest.raises(ConfigError, match="--score broken=x cannot be made: RuntimeError: no such file"):
        make_scores(["broken=x"])


def test_a_directory_without_pictures_or_with_a_broken_one_is_refused(clip_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no picture"):
        make_scores([f"clip={clip_dir}"], images=tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"a\.png cannot be read"):
        make_scores([f"clip={clip_dir}"], images=tmp_path)
