"""The tiny model: real classes, made offline, whole or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import WanPipeline

from engine_support import weights
from rushes.errors import ConfigError
from rushes_service.models.wan.tiny import build_tiny_wan


def test_it_loads_offline_and_makes_colourful_pictures(tmp_path):
    pipe = WanPipeline.from_pretrained(build_tiny_wan(tmp_path / "wan"))
    pipe.set_progress_bar_config(disable=True)

    def picture(prompt: str, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        options = {"width": 32, "height": 32, "num_frames": 1, "num_inference_steps": 2, "output_type": "pt"}
        return pipe(prompt=prompt, generator=generator, **options).frames

    first = picture("a red ball", 1)
    assert first.std() > 0.1
    assert (first - picture("a red ball", 2)).abs().mean() > 0.05
    assert (first - picture("a blue cube", 1)).abs().mean() > 0.005


def test_the_same_seed_makes_the_same_weights_and_another_does_not(tmp_path):
    one, again, other = (
        weights(build_tiny_wan(tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["proj_out.weight"], other["proj_out.weight"])


def test_building_leaves_the_callers_random_state_alone(tmp_path):
    torch.manual_seed(7)
    wanted = torch.randn(3)
    torch.manual_seed(7)
    build_tiny_wan(tmp_path / "wan")
    assert torch.equal(torch.randn(3), wanted)


def test_a_complete_directory_is_reused_and_another_recipe_replaces_it(tmp_path):
    directory = build_tiny_wan(tmp_path / "wan")
    before = (directory / "model_index.json").stat().st_mtime_ns
    build_tiny_wan(directory)
    assert (directory / "model_index.json").stat().st_mtime_ns == before
    build_tiny_wan(directory, seed=1)
    assert (directory / "model_index.json").stat().st_mtime_ns != before


def test_several_builders_at_once_leave_one_whole_model(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: build_tiny_wan(tmp_path / "wan"), range(3)))
    assert [path.name for path in tmp_path.iterdir()] == ["wan"]
    assert weights(tmp_path / "wan")


def test_a_directory_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not empty"):
        build_tiny_wan(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_it_is_small(tmp_path):
    files = [path for path in build_tiny_wan(tmp_path / "wan").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
