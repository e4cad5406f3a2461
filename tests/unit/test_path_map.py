"""Paths of other machines, there and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from queue_support import make_job
from rushes.errors import ConfigError, InputError
from rushes.wire.job_files import PROMPT_FIELDS
from rushes.wire.jobs import Checkpoint, ExtraLora, Prompt
from rushes.wire.models import ModelSpec
from rushes_service.settings import load_settings
from rushes_service.storage import path_map
from rushes_service.storage.path_map import PathMap
from rushes_service.storage.staged import StagedFiles
from rushes_service.worker.workspace import open_workspace

MAP = PathMap.parse(["/train=/mnt/train", "/train/models/=/fast", "/home/a b=/mnt/ab"])


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("/train", "/mnt/train"),
        ("/train/out/x.safetensors", "/mnt/train/out/x.safetensors"),
        ("/train/models/wan", "/fast/wan"),
        ("/home/a b/c", "/mnt/ab/c"),
        ("/training/out", "/training/out"),
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    ],
)
def test_a_path_is_found_here_and_told_as_it_was_given(there: str, here: str) -> None:
    assert MAP.to_local(there) == here
    assert MAP.to_remote(here) == there


WINDOWS = PathMap.parse([r"C:\train=/mnt/train", "C:/train/models=/fast", r"\\nas\share=/mnt/share", "D:\\=/mnt/d"])


@pytest.mark.parametrize(
    ("there", "here", "told"),
    [
        (r"C:\train\out\x.safetensors", "/mnt/train/out/x.safetensors", r"C:\train\out\x.safetensors"),
        ("c:/Train/out", "/mnt/train/out", r"C:\train\out"),
        (r"C:\train\models\wan", "/fast/wan", r"C:\train\models\wan"),
        (r"\\NAS\share\a b\c", "/mnt/share/a b/c", r"\\nas\share\a b\c"),
        ("D:\\", "/mnt/d", "D:\\"),
        (r"d:\x", "/mnt/d/x", r"D:\x"),
    ],
)
def test_a_path_of_windows_is_found_here_whatever_its_case_and_slashes(there: str, here: str, told: str) -> None:
    assert WINDOWS.to_local(there) == here
    assert WINDOWS.to_remote(here) == told


@pytest.mark.parametrize(
    "path", [r"C:\training\out", r"E:\train", r"\\nas\other\x", "/train/out", "org/name", r"\train\out"]
)
def test_a_path_that_no_pair_fits_stays_as_it_is(path: str) -> None:
    assert WINDOWS.to_local(path) == path


def test_a_sample_of_windows_without_a_map_says_what_is_missing() -> None:
    job = make_job(output_dir=r"C:\train\out")
    with (
        pytest.raises(InputError, match=r"C:\\train\\out is a path of Windows.*--map 'C:\\=/mnt/directory'"),
        open_workspace(job, MAP, StagedFiles(Path("/nowhere"), 1)),
    ):
        pass


def test_a_list_of_pairs_in_the_environment_may_hold_drives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSHES_MAP", r"C:\train=/mnt/train:/a=/b:d:/x=/y")
    assert load_settings().map == (r"C:\train=/mnt/train", "/a=/b", "d:/x=/y")


@pytest.mark.parametrize(
    "text",
    [
        r"train\out=/mnt",
        r"C:train=/mnt",
        r"C:\train=mnt",
        r"C:\train=D:\x",
        "/train",
        "train=/mnt",
        "/train=mnt",
        "=",
        "",
    ],
)
def test_what_is_no_pair_of_directories_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write THERE=HERE"):
        PathMap.parse([text])


def test_every_file_that_a_job_names_is_found_here() -> None:
    job = make_job(
        model=ModelSpec(architecture="wan2.1-t2v", model="org/name", dit="/train/m", vae="/train/m"),
        output_dir="/train/out",
        checkpoint=Checkpoint(path="/train/a", fingerprint="f", source="/train/b", snapshot=True),
        image_path="/train/i.png",
        end_image_path="/train/e.png",
        control_video_path="/train/v",
        control_image_path=("/train/1.png", "/train/2.png"),
    ).model_copy(update={"loras": (ExtraLora(path="/train/l", fingerprint="f"),)})
    here = MAP.job_to_local(job)
    assert '"/train' not in here.encode()
    assert here.encode().count("/mnt/train") == job.encode().count("/train")
    assert here.model.model == "org/name"
    assert here.id == job.id


def test_no_field_that_names_a_file_is_forgotten() -> None:
    files = {name for name in Prompt.model_fields if name.endswith("_path")}
    assert files == {*PROMPT_FIELDS, "control_image_path"}
    parts = {"model", "dit", "vae", "text_encoder1", "text_encoder2", "t5", "clip", "image_encoder"}
    assert parts <= set(path_map.MODEL_FIELDS)
    assert not {"architecture", "dtype", "lora_expert"} & set(path_map.MODEL_FIELDS)


def test_facts_of_a_receipt_are_told_in_the_submitters_terms() -> None:
    facts = {"model": {"path": "/fast/wan"}, "files": ["/mnt/train/x", 1, None], "note": "in /mnt/train"}
    told = {
        "model": {"path": "/train/models/wan"},
        "files": ["/train/x", 1, None],
        "note": "in /mnt/train",
    }
    assert MAP.facts_to_remote(facts) == told


def test_without_a_map_nothing_is_touched() -> None:
    job = make_job()
    assert PathMap().job_to_local(job) is job
