"""What trainers' file names mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from queue_support import empty_safetensors
from rushes.checkpoints.file_names import expert_in_name
from rushes.watch import Search, find
from rushes.watch.names import Place, place_of_file, step_of, step_of_metadata


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
        ("checkpoint-500-rolling/pytorch_lora_weights.safetensors", Place(None, 500)),
        ("checkpoint-500/ema/pytorch_lora_weights.safetensors", Place(None, 500, None, "ema")),
        ("checkpoint-500/ema/ema_model.safetensors", Place(None, 500, None, "ema")),
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
        ("cat-000004.SAFETENSORS", Place("cat", None, 4)),
        ("cat-000004_comfy.safetensors", Place("cat", None, 4, "comfy")),
        ("cat-000004_pruned.safetensors", Place("cat", None, 4, "pruned")),
        ("ema_cat-000004.safetensors", Place("cat", None, 4, "ema")),
        ("checkpoint-500-0.1234.safetensors", Place(None, 500)),
        ("cat-epoch04-val0.12.safetensors", Place("cat", None, 4)),
        ("cat-1.5.safetensors", Place("cat-1.5")),
        ("cat_000000500_converted.safetensors", Place("cat", 500, None, "converted")),
        ("cat-000004_EMA.safetensors", Place("cat", None, 4, "ema")),
        ("cat_ema-000004.safetensors", Place("cat", None, 4, "ema")),
        ("cat-ema-0.999-step00000100.safetensors", Place("cat", 100, None, "ema-0.999")),
        ("cat.ComfyUI.safetensors", Place("cat", None, None, "comfyui")),
        ("pytorch_lora_weights_comfy.safetensors", Place(None, None, None, "comfy")),
        ("checkpoint-500-ema/pytorch_lora_weights.safetensors", Place(None, 500, None, "ema")),
        ("checkpoint-500/pytorch_lora_weights_comfy.safetensors", Place(None, 500, None, "comfy")),
        ("cinema-000004.safetensors", Place("cinema", None, 4)),
        ("epoch=4-step=500-val_loss=0.12.safetensors", Place(None, 500, 4)),
        ("cat-epoch=04-val_loss=1.2e-3.safetensors", Place("cat", None, 4)),
        ("val_loss=0.12-epoch=4-step=500-v1.safetensors", Place(None, 500, 4)),
        ("step=500-epoch=4-train_acc=0.5.safetensors", Place(None, 500, 4)),
        ("cat-step00000500-loss-0.12.safetensors", Place("cat", 500)),
        ("cat_000000500_loss0.0456.safetensors", Place("cat", 500)),
        ("checkpoint-500_val_loss_0.12/adapter_model.safetensors", Place(None, 500)),
        ("cat_epoch_4_step_500.safetensors", Place("cat", 500, 4)),
        ("cat-global_step500.safetensors", Place("cat", 500)),
        ("zorp_000000250_high_noise.safetensors", Place("zorp", 250, expert="high")),
        ("zorp_000000250_low_noise.safetensors", Place("zorp", 250, expert="low")),
        ("zorp_high_noise_000000250.safetensors", Place("zorp", 250, expert="high")),
        ("zorp-HighNoise-000004.safetensors", Place("zorp", None, 4, expert="high")),
        ("zorpLowNoise-step00000100.safetensors", Place("zorp", 100, expert="low")),
        ("zorp-low-noise.safetensors", Place("zorp", expert="low")),
        ("low_noise_model.safetensors", Place(expert="low")),
        ("zorp-000004_low_noise_comfy.safetensors", Place("zorp", None, 4, "comfy", "low")),
        ("checkpoint-500/zorp_high_noise.safetensors", Place(None, 500, expert="high")),
        ("low_key-000004.safetensors", Place("low_key", None, 4)),
        ("highlands_noise-000003.safetensors", Place("highlands_noise", None, 3)),
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
        "checkpoint-500-tmp/pytorch_lora_weights.safetensors",
        "checkpoint-500/samples/cat.safetensors",
        "cat_ema.safetensors",
        "notes.txt",
    ],
)
def test_what_is_no_checkpoint_of_this_run_is_left_alone(path: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    empty_safetensors(tmp_path / path)
    assert find(tmp_path, Search(exclude=("*_ema*",))) == []


@pytest.mark.parametrize("directory", ["backup/2026-01-31_12-00-00-backup-500-2-100/lora", "checkpoint-500-tmp"])
def test_what_is_no_checkpoint_is_no_run_of_its_own_below_either(directory: str, tmp_path: Path) -> None:
    (tmp_path / directory).mkdir(parents=True)
    empty_safetensors(tmp_path / directory / "lora.safetensors")
    assert find(tmp_path, Search(recursive=True)) == []


@pytest.mark.parametrize("prefix", ["zorp", ""])
def test_the_last_checkpoint_of_onetrainer_is_of_the_run_of_those_before(prefix: str, tmp_path: Path) -> None:
    (tmp_path / "save").mkdir()
    empty_safetensors(tmp_path / "save" / f"{prefix}2026-01-31_12-00-00-save-500-2-100.safetensors")
    last = tmp_path / f"{prefix}2026-01-31_12-30-00.safetensors"
    empty_safetensors(last)
    assert {found.path: found.place for found in find(tmp_path, Search())}[last] == Place(prefix or None)
    assert place_of_file(last.stem, prefix) == Place(prefix or last.stem)


def test_a_file_named_by_its_time_is_a_run_of_its_own_where_no_other_is_its(tmp_path: Path) -> None:
    empty_safetensors(tmp_path / "zorp2026-01-31_12-30-00.safetensors")
    (found,) = find(tmp_path, Search())
    assert found.place == Place("zorp2026-01-31_12-30-00")


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


@pytest.mark.parametrize(
    ("stem", "place"),
    [
        ("zorp-high-000004", Place("zorp", None, 4, expert="high")),
        ("zorp_000000500_LN", Place("zorp", 500, expert="low")),
        ("zorp-low", Place("zorp", expert="low")),
        ("zorp_HIGH-step00000100", Place("zorp", 100, expert="high")),
        ("high_quality_zorp-000004", Place("high_quality_zorp", None, 4)),
    ],
)
def test_short_names_of_experts_count_where_a_family_has_two(stem: str, place: Place) -> None:
    assert place_of_file(stem, short_experts=True) == place
    assert place_of_file(stem).expert is None


@pytest.mark.parametrize(
    ("stem", "run", "place"),
    [
        ("lora-250131", "lora-250131", Place("lora-250131")),
        ("lora-250131-000004", "lora-250131", Place("lora-250131", None, 4)),
        ("cat_ema", "cat_ema", Place("cat_ema")),
        ("cat_ema-000004_comfy", "cat_ema", Place("cat_ema", None, 4, "comfy")),
        ("cat-000004_for my friend", "cat", Place("cat", None, 4, "for-my-friend")),
        ("low_noise-000004", "low_noise", Place("low_noise", None, 4)),
        ("cat_style-000004", "cat", Place("cat_style", None, 4)),
        ("catalogue-000004", "cat", Place("catalogue", None, 4)),
    ],
)
def test_the_name_of_the_run_is_no_epoch_and_no_copy(stem: str, run: str, place: Place) -> None:
    assert place_of_file(stem, run) == place


def test_a_file_whose_name_says_no_run_is_of_the_one_in_its_metadata(tmp_path: Path) -> None:
    for name in ("epoch-4.safetensors", "lora.safetensors"):
        empty_safetensors(tmp_path / name)
    assert {found.of("cat").place for found in find(tmp_path, Search())} == {Place("cat", None, 4), Place("cat")}


@pytest.mark.parametrize(
    "pattern", ["epoch-{}.safetensors", "cat-00000{}.safetensors", "epoch{}/adapter_model.safetensors"]
)
def test_epochs_that_count_from_0_are_steps_of_their_own(pattern: str, tmp_path: Path) -> None:
    for epoch in range(3):
        file = tmp_path / pattern.format(epoch)
        file.parent.mkdir(exist_ok=True)
        empty_safetensors(file)
    places = sorted((found.place.epoch or 0, step_of(found.place, {}, 0)) for found in find(tmp_path, Search()))
    assert places == [(0, 1), (1, 2), (2, 3)]


def test_epochs_that_count_from_1_are_their_steps(tmp_path: Path) -> None:
    for name in ("cat-000001", "cat-000002", "dog-000000"):
        empty_safetensors(tmp_path / f"{name}.safetensors")
    steps = {found.path.stem: step_of(found.place, {}, 0) for found in find(tmp_path, Search())}
    assert steps == {"cat-000001": 1, "cat-000002": 2, "dog-000000": 1}


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("Wan22-T2V-A14B-HIGH_noise-lightning.safetensors", "high"),
        ("lightx2v/low_noise_model.safetensors", "low"),
        ("wan2.2_high_noise_and_low_noise.safetensors", None),
        ("Wan2.2-T2V-A14B_high_noise_lora/epoch-4.safetensors", "high"),
        ("high_noise/checkpoint-500/adapter_model.safetensors", "high"),
        ("high_noise/zorp_low_noise.safetensors", "low"),
        ("cat_low.safetensors", None),
        ("cat.safetensors", None),
    ],
)
def test_files_that_are_named_alone_say_their_expert(name: str, expert: str | None) -> None:
    assert expert_in_name(name) == expert


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("cat_low.safetensors", "low"),
        ("cat-high-000004.safetensors", "high"),
        ("cat_LN_000000500.safetensors", "low"),
        ("cat-high-step00000500.safetensors", "high"),
        ("high.safetensors", "high"),
        ("cat_high/epoch-4.safetensors", "high"),
        ("high_quality-000004.safetensors", None),
        ("cat_flow.safetensors", None),
    ],
)
def test_short_names_say_it_where_a_family_has_two(name: str, expert: str | None) -> None:
    assert expert_in_name(name, short=True) == expert
