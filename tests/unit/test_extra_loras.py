"""Extra LoRAs on their way into a job: flags, strengths, ids."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rushes.errors import CheckpointMissing, ConfigError
from rushes.submission.build import Run, build_jobs, extra_loras
from rushes.training.flags import add_sampling_arguments, loras_from_args, run_from_args
from rushes.wire.ids import job_id
from rushes.wire.jobs import ExtraLora, Prompt, SampleJob
from rushes.wire.models import ModelSpec

ASKED: dict[str, Any] = {
    "run": "r",
    "model": ModelSpec(architecture="wan2.1-t2v"),
    "checkpoint_fingerprint": "c",
    "prompt": Prompt(prompt="a"),
    "prompt_index": 0,
    "step": 1,
}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name in ("a", "b"):
        save_file({name: np.ones(2, np.float32)}, tmp_path / f"{name}.safetensors")
    return [str(tmp_path / f"{name}.safetensors") for name in ("a", "b")]


def parsed(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_sampling_arguments(parser)
    return vars(parser.parse_args(arguments))


def test_flags_may_list_files_or_be_repeated(files: list[str]) -> None:
    listed = loras_from_args(parsed("--lora_weight", *files, "--lora_multiplier", "0.8", "-1"))
    assert [(lora.path, lora.strength) for lora in listed] == [(files[0], 0.8), (files[1], -1.0)]
    repeated = parsed("--lora_weight", files[0], "--lora_weight", files[1], "--lora_multiplier", "0.8")
    assert [lora.strength for lora in loras_from_args(repeated)] == [0.8, 1.0]
    assert loras_from_args(parsed()) == ()


def test_each_may_be_for_one_of_two_transformers(files: list[str], tmp_path: Path) -> None:
    given = parsed("--lora_weight", *files, "--lora_expert", "high", "low")
    run = run_from_args({**given, "output_dir": str(tmp_path)}, "wan2.2-t2v-a14b")
    assert [lora.expert for lora in run.loras] == ["high", "low"]
    jobs = [
        build_jobs(replace(run, loras=extra_loras(files, (), experts)), [Prompt(prompt="a")])[0]
        for experts in (("high", "low"), ("low", "high"), ())
    ]
    assert [lora.expert for lora in jobs[0].loras] == ["high", "low"]
    assert len({job.id for job in jobs}) == 3


def test_an_expert_that_contradicts_the_name_or_the_family_is_an_error(files: list[str], tmp_path: Path) -> None:
    low = Path(files[0]).rename(tmp_path / "style_low_noise.safetensors")
    with pytest.raises(ConfigError, match=r"--lora_expert high: the name of .*style_low_noise.* says low"):
        extra_loras([low], (), ("high",))
    with pytest.raises(ConfigError, match="2 values for --lora_expert, but 1 files"):
        extra_loras([low], (), ("low", "low"))
    with pytest.raises(ConfigError, match="--lora_expert middle: it is low or high"):
        extra_loras([low], (), ("middle",))  # type: ignore[arg-type]
    given = {**parsed("--lora_weight", str(low), "--lora_expert", "low"), "output_dir": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"wan2\.1-t2v has one transformer: leave --lora_expert out"):
        run_from_args(given, "wan2.1-t2v")


def test_what_the_trainer_merged_into_its_base_is_merged_first(files: list[str]) -> None:
    given = {**parsed("--lora_weight", files[1]), "base_weights": [files[0]], "base_weights_multiplier": [0.5]}
    assert [(lora.path, lora.strength) for lora in loras_from_args(given)] == [(files[0], 0.5), (files[1], 1.0)]


def test_a_trainers_own_single_multiplier_counts_for_all(files: list[str]) -> None:
    given = {"lora_weight": files, "lora_multiplier": 0.5}
    assert [lora.strength for lora in loras_from_args(given)] == [0.5, 0.5]


def test_mistakes_are_sentences(files: list[str]) -> None:
    with pytest.raises(ConfigError, match="2 values for --lora_multiplier, but 1 files"):
        extra_loras(files[:1], [1.0, 2.0])
    with pytest.raises(ConfigError, match="finite"):
        extra_loras(files, [float("nan")])
    with pytest.raises(CheckpointMissing, match="gone"):
        extra_loras(["/gone.safetensors"])


def test_ids_without_extra_loras_are_those_of_earlier_versions() -> None:
    assert job_id(**ASKED, loras=(), allow_partial_lora=False) == job_id(**ASKED)


def test_ids_depend_on_content_and_strength_and_not_on_the_path() -> None:
    lora = ExtraLora(path="/a", fingerprint="f", strength=0.5)
    one = job_id(**ASKED, loras=[lora])
    assert one == job_id(**ASKED, loras=[lora.model_copy(update={"path": "/b"})])
    others = [
        job_id(**ASKED),
        job_id(**ASKED, loras=[lora.model_copy(update={"strength": 1.0})]),
        job_id(**ASKED, loras=[lora.model_copy(update={"fingerprint": "g"})]),
        job_id(**ASKED, loras=[lora, lora]),
        job_id(**ASKED, allow_partial_lora=True),
    ]
    assert len({one, *others}) == 6


def test_jobs_carry_them_over_the_wire(files: list[str]) -> None:
    run = Run("r", ASKED["model"], "/o", loras=extra_loras(files, [0.5]), allow_partial_lora=True)
    (job,) = build_jobs(run, [Prompt(prompt="a")])
    assert job.loras == run.loras
    assert job.allow_partial_lora
    assert SampleJob.decode(job.encode()) == job
    (plain,) = build_jobs(Run("r", ASKED["model"], "/o"), [Prompt(prompt="a")])
    assert "loras" not in plain.encode()
    assert plain.id != job.id
