"""Paths of other machines, there and back."""

from __future__ import annotations

import pytest

from queue_support import make_job
from rushes.errors import ConfigError
from rushes.wire.job_files import PROMPT_FIELDS
from rushes.wire.jobs import Checkpoint, ExtraLora, ModelSpec, Prompt
from rushes_service.worker import path_map
from rushes_service.worker.path_map import PathMap

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


@pytest.mark.parametrize("text", ["/train", "train=/mnt", "/train=mnt", "=", ""])
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
