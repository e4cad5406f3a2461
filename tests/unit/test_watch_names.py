"""What trainers' file names mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from queue_support import empty_safetensors
from rushes.watch import Search, find
from rushes.watch.names import Place, step_of, step_of_metadata


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("cat-000004.safetensors", Place("cat", None, 4)),
        ("cat-step00000500.safetensors", Place("cat", 500)),
        ("cat.safetensors", Place("cat")),
        ("cat_v2-000012.safetensors", Place("cat_v2", None, 12)),
        ("cat_000000500.safetensors", Place("cat", 500)),
        ("checkpoint-500/pytorch_lora_weights.safetensors", Place(None, 500)),
        ("pytorch_lora_weights.safetensors", Place()),
        ("checkpoint-500/adapter_model.safetensors", Place(None, 500)),
        ("epoch4/adapter_model.safetensors", Place(None, None, 4)),
        ("step500/adapter_model.safetensors", Place(None, 500)),
        ("lora_weights/000500/pytorch_lora_weights.safetensors", Place(None, 500)),
        ("save/cat2026-01-31_12-00-00-save-500-2-100.safetensors", Place("cat", 500, 2)),
        ("save/2026-01-31_12-00-00-save-500-2-100.safetensors", Place(None, 500, 2)),
        ("step-500.safetensors", Place(None, 500)),
        ("epoch-4.safetensors", Place(None, None, 4)),
        ("epoch=4-step=500.safetensors", Place(None, 500, 4)),
        ("final/adapter_model.safetensors", Place()),
        ("adapter_model.safetensors", Place()),
    ],
)
def test_names_of_every_trainer_say_run_step_and_epoch(path: str, place: Place, tmp_path: Path) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    empty_safetensors(file)
    if file.stem == "adapter_model":
        (file.parent / "adapter_config.json").write_text("{}")
    (found,) = find(tmp_path, Search())
    assert (found.place, found.run_dir, found.weights) == (place, tmp_path, file)
    assert found.path == (file.parent if file.stem == "adapter_model" else file)


@pytest.mark.parametrize(
    "path",
    [
        ".rushes/checkpoints/abc.safetensors",
        "cat-000004-state/model.safetensors",
        "checkpoint-500/model.safetensors",
        "checkpoint-500/optimizer_1.safetensors",
        "global_step500/cat.safetensors",
        "finetrainers_step_500/pytorch_lora_weights.safetensors",
        "sample/cat.safetensors",
        "model-00001-of-00003.safetensors",
        "another_run/cat.safetensors",
        "cat_ema.safetensors",
        "notes.txt",
    ],
)
def test_what_is_no_checkpoint_of_this_run_is_left_alone(path: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    empty_safetensors(tmp_path / path)
    assert find(tmp_path, Search(exclude=("*_ema*",))) == []


def test_below_a_directory_of_runs_each_has_its_own(tmp_path: Path) -> None:
    for run in ("one", "two/deep"):
        (tmp_path / run / "checkpoint-5").mkdir(parents=True)
        empty_safetensors(tmp_path / run / "checkpoint-5" / "pytorch_lora_weights.safetensors")
    assert {found.run_dir for found in find(tmp_path, Search(recursive=True))} == {
        tmp_path / "one",
        tmp_path / "two" / "deep",
    }
    assert find(tmp_path / "absent", Search(recursive=True)) == []


def test_the_step_is_that_of_the_name_then_of_the_metadata_then_the_epoch_then_the_newest() -> None:
    musubi, toolkit = {"ss_steps": "120"}, {"training_info": '{"step": 250, "epoch": 3}'}
    assert step_of(Place(step=500), musubi, 7) == 500
    assert step_of(Place(epoch=4), musubi, 7) == 120
    assert step_of(Place("cat"), toolkit, 7) == 250
    assert step_of(Place(epoch=4), {}, 7) == 4
    assert step_of(Place("cat"), {}, 7) == 7
    assert step_of(Place("cat"), {}, 0) == step_of(Place(step=0), {}, 0) == 1
    assert step_of_metadata({"ss_steps": "None"}) is step_of_metadata({"training_info": "[]"}) is None
