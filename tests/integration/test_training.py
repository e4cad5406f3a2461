"""`TrainingSampler` in a training loop: what it hands over, what it says, and that it never gets in the way."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client_support import MakeSampler, logged, lora, snapshots, spooled, training, work
from rushes import Cadence, Client, Run, SampleResult, TrainingSampler, add_sampling_arguments
from rushes.checkpoints.safetensors import read_header
from rushes.errors import ArchitectureError, ConfigError, PromptError
from rushes.wire.jobs import ExtraLora, VaeOptions
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobRecord, JobState
from support import wait_until


@pytest.fixture
def make(tmp_path: Path, redis_url: str) -> Iterator[MakeSampler]:
    with training(tmp_path, redis_url) as maker:
        yield maker


def records(client: Client, count: int, run: str | None = None) -> list[JobRecord]:
    """All records, in the order of their submission, when there are `count`."""
    wait_until(lambda: len(client.ids()) >= count, 10, f"{count} records")
    found = client.list(run=run, limit=1000)[::-1]
    assert len(found) == count
    return found


def fetched(sampler: TrainingSampler, count: int) -> list[SampleResult]:
    """The next `count` results."""
    found: list[SampleResult] = []

    def enough() -> bool:
        found.extend(sampler.results())
        return len(found) >= count

    wait_until(enough, 10, f"{count} results")
    assert len(found) == count
    return found


def test_each_prompt_of_a_checkpoint_becomes_a_sample(make: MakeSampler, client: Client, tmp_path: Path) -> None:
    path = lora(tmp_path)
    make().submit(step=10, epoch=2, weights=path)
    jobs = [record.job for record in records(client, 2)]
    for index, job in enumerate(jobs):
        assert job is not None
        assert (job.step, job.epoch, job.prompt_index, job.prompt.seed) == (10, 2, index, index + 1)
        assert job.checkpoint is not None
        assert (job.checkpoint.source, job.checkpoint.snapshot) == (str(path), True)
        assert Path(job.checkpoint.path).samefile(path)


def test_step_zero_is_the_base_model_whatever_the_weights(make: MakeSampler, client: Client) -> None:
    make().submit(step=0, weights=lambda path: 1 / 0)
    assert [record.job and record.job.checkpoint for record in records(client, 2)] == [None, None]


def test_results_come_back_to_the_run_that_asked(
    make: MakeSampler, client: Client, redis_url: str, tmp_path: Path
) -> None:
    first, second = make(), make(name="other")
    first.submit(step=10, weights=lora(tmp_path, 10))
    second.submit(step=20, weights=lora(tmp_path, 20))
    records(client, 4)
    assert len(work(redis_url)) == 4
    assert {result.step for result in fetched(first, 2)} == {10}
    assert {result.step for result in fetched(second, 2)} == {20}
    assert (first.results(), second.results()) == ([], [])
    assert snapshots(tmp_path) == []


def test_two_samplers_of_one_run_close_without_waiting_for_each_other(
    make: MakeSampler, redis_url: str, client: Client
) -> None:
    first, second = make(), make()
    first.submit(step=0)
    second.submit(step=0)
    records(client, 2)
    work(redis_url)
    assert len(first.close(wait=True, timeout=60)) >= 2
    assert len(second.close(wait=True, timeout=60)) >= 2


def test_samplers_that_share_a_directory_do_not_wait_for_each_others_runs(
    make: MakeSampler, redis_url: str, client: Client
) -> None:
    mine, other = make(), make(name="other")
    other.submit(step=0)
    records(client, 2)
    assert mine.close(wait=True, timeout=60) == []
    assert len(client.list(run="other", state="queued")) == 2


@pytest.mark.parametrize("kind", [str, Path])
def test_weights_may_be_deleted_as_soon_as_submit_returns(
    make: MakeSampler, client: Client, tmp_path: Path, kind: type[str] | type[Path]
) -> None:
    path = lora(tmp_path)
    content = path.read_bytes()
    make().submit(step=10, weights=kind(path))
    path.unlink()
    [job, _] = [record.job for record in records(client, 2)]
    assert job is not None
    assert job.checkpoint is not None
    assert Path(job.checkpoint.path).read_bytes() == content


def test_a_state_dict_and_a_callable_are_weights_too(make: MakeSampler, client: Client) -> None:
    sampler = make()
    sampler.submit(step=10, weights={"a.lora_down.weight": torch.ones(2, 2)})
    sampler.submit(step=20, weights=lambda path: lora(Path(path).parent).rename(path))
    paths = {record.job.checkpoint.path for record in records(client, 4) if record.job and record.job.checkpoint}
    assert sorted(len(read_header(path)) for path in paths) == [1, 1]


def fail(_: str) -> None:
    raise ZeroDivisionError("of the trainer")


@pytest.mark.parametrize(
    ("weights", "code", "told"),
    [
        (fail, "checkpoint", "ZeroDivisionError('of the trainer')"),
        (lambda _: None, "checkpoint_format", "wrote no file"),
        ("/nowhere/lora.safetensors", "checkpoint_missing", "/nowhere/lora.safetensors: there is no such"),
        ({"a": 3}, "checkpoint", "could not be saved"),
    ],
)
def test_weights_that_cannot_be_had_are_failed_samples_and_no_exception(
    make: MakeSampler, client: Client, weights: Any, code: str, told: str
) -> None:
    sampler = make()
    sampler.submit(step=10, weights=weights)
    found = fetched(sampler, 2)
    assert [result.state for result in found] == [JobState.FAILED] * 2
    assert all(result.error and result.error.code == code and told in result.error.message for result in found)
    assert len(client.list(state="failed")) == 2


def test_the_next_checkpoint_is_sampled_though_one_was_lost(make: MakeSampler, client: Client, tmp_path: Path) -> None:
    sampler = make()
    sampler.submit(step=10, weights=fail)
    sampler.submit(step=20, weights=lora(tmp_path))
    assert [record.state.value for record in records(client, 4)] == ["failed", "failed", "queued", "queued"]


def test_a_directory_that_cannot_be_written_is_no_exception(make: MakeSampler, client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sampler = make(output_dir=tmp_path / "file")
    sampler.submit(step=0)
    sampler.submit(step=10, weights=lora(tmp_path))
    sampler.submit(step=20, weights={"a": torch.ones(1)})
    found = [(record.job.step if record.job else None, record.state.value) for record in records(client, 6)]
    assert found == [(0, "queued")] * 2 + [(10, "failed")] * 2 + [(20, "failed")] * 2
    assert all("directory" in result.error.message for result in fetched(sampler, 4) if result.error)


def test_the_prompt_file_may_be_edited_and_a_bad_line_fails_alone(
    make: MakeSampler, client: Client, tmp_path: Path
) -> None:
    sampler = make()
    (tmp_path / "prompts.txt").write_text("a red ball --d 1\nworse --nope 1\nthree --w 64\n")
    sampler.submit(step=0)
    states = {record.job.prompt_index: record for record in records(client, 3) if record.job}
    assert [states[index].state.value for index in range(3)] == ["queued", "failed", "queued"]
    [result] = fetched(sampler, 1)
    assert result.error is not None
    assert result.error.message.startswith(f"{tmp_path}/prompts.txt:2:7: unknown option --nope")


@pytest.mark.parametrize("content", [None, "# nothing any more\n", b"\xff\xfe"])
def test_a_prompt_file_that_breaks_is_seen_and_the_prompts_before_are_sampled(
    make: MakeSampler, client: Client, tmp_path: Path, content: str | bytes | None
) -> None:
    sampler = make()
    prompts = tmp_path / "prompts.txt"
    prompts.unlink()
    if content is not None:
        prompts.write_bytes(content if isinstance(content, bytes) else content.encode())
    sampler.submit(step=10, weights=lora(tmp_path))
    assert sorted(record.state.value for record in records(client, 3)) == ["failed", "queued", "queued"]
    [result] = fetched(sampler, 1)
    assert result.prompt.prompt == "(prompts.txt cannot be read)"
    assert result.error is not None
    assert str(prompts) in result.error.message


def test_other_weights_of_the_same_step_stand_beside_them_under_a_label(
    make: MakeSampler, client: Client, tmp_path: Path
) -> None:
    sampler = make()
    averaged = sampler.labelled("ema")
    for each, weights in ((sampler, lora(tmp_path, 10)), (averaged, lora(tmp_path, 20))):
        each.submit(step=10, weights=weights)
        each.close()
    jobs = [record.job for record in client.list() if record.job]
    assert (
        sorted((job.label or "", job.step, job.run) for job in jobs) == [("", 10, "run")] * 2 + [("ema", 10, "run")] * 2
    )
    with pytest.raises(ConfigError, match="label 'e/ma': must be"):
        make(name="other").labelled("e/ma")


def test_closing_with_wait_brings_every_result(make: MakeSampler, redis_url: str, tmp_path: Path) -> None:
    sampler = make()
    sampler.submit(step=0)
    sampler.submit(step=10, weights=lora(tmp_path))
    sampler.submit(step=20, weights=fail)
    worker = threading.Thread(target=lambda: wait_until(lambda: len(work(redis_url)) >= 1, 10, "work"))
    worker.start()
    worker.join()
    threading.Timer(0.2, work, [redis_url]).start()
    found = sampler.close(wait=True, timeout=30)
    assert sorted((result.step, result.state.value) for result in found) == [
        (0, "done"),
        (0, "done"),
        (10, "done"),
        (10, "done"),
        (20, "failed"),
        (20, "failed"),
    ]
    assert sampler.results() == sampler.close() == []


def test_closing_with_wait_brings_results_of_samples_that_were_done_before(
    make: MakeSampler, client: Client, redis_url: str
) -> None:
    make().submit(step=0)
    records(client, 2)
    work(redis_url)
    again = make()
    again.submit(step=0)
    assert [result.state for result in again.close(wait=True, timeout=60)] == [JobState.DONE] * 2


def test_closing_gives_up_in_time_when_nobody_works(make: MakeSampler, client: Client) -> None:
    sampler = make()
    sampler.submit(step=0)
    assert sampler.close(wait=True, timeout=0.5) == []
    assert len(client.list(state="queued")) == 2


def test_a_step_may_be_any_whole_number(make: MakeSampler, client: Client) -> None:
    make().submit(step=np.int64(10), epoch=torch.tensor(3))
    [job, _] = [record.job for record in records(client, 2)]
    assert job is not None
    assert (job.step, job.epoch) == (10, 3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"step": -1}, "step -1: must be 0 or more"),
        ({"step": 1.5}, "step must be a whole number, not 1.5"),
        ({"step": None}, "step must be a whole number"),
        ({"step": 1, "epoch": -1}, "epoch -1"),
        ({"step": 1, "weights": 3}, "weights must be a path, a callable or a state dict, not int"),
    ],
)
def test_arguments_that_are_none_are_refused_in_the_callers_face(
    make: MakeSampler, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        make().submit(**arguments)


def test_mistakes_are_found_before_training_begins(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("fine\nsmall --w 4\n")

    def make(architecture: str = "wan2.1-t2v", file: Path = prompts, url: str | None = None) -> None:
        run = Run(name="run", model=ModelSpec(architecture=architecture), output_dir=str(tmp_path))
        TrainingSampler(run, file, Cadence(), url=url)

    with pytest.raises(PromptError, match=r"prompts\.txt:2: --w 4 is too small"):
        make()
    with pytest.raises(ArchitectureError, match="unknown architecture"):
        make("wan9")
    with pytest.raises(PromptError, match="no such prompt file"):
        make(file=tmp_path / "absent.txt")
    prompts.write_text("fine\n")
    with pytest.raises(ConfigError, match="not a Redis URL"):
        make(url="nowhere")


def test_a_text_that_is_no_unicode_is_found_before_training_begins() -> None:
    fine = Run(name="run", model=ModelSpec(architecture="wan2.1-t2v"), output_dir="/train")
    odd = ModelSpec(architecture="wan2.1-t2v", dit="/models/\udcff.safetensors")
    style = ExtraLora(path="/\udcff.safetensors", fingerprint="f")
    for changes in ({"output_dir": "/\udcff"}, {"model": odd}, {"loras": (style,)}):
        with pytest.raises(ConfigError, match="not Unicode"):
            dataclasses.replace(fine, **changes)


def test_a_checkpoint_whose_name_is_no_unicode_is_sampled_or_said_to_be_gone(
    make: MakeSampler, tmp_path: Path, client: Client
) -> None:
    sampler, odd = make(), tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    sampler.submit(step=20, weights=odd)
    lora(tmp_path).rename(odd)
    sampler.submit(step=10, weights=odd)
    sampler.close()
    records = client.list()
    assert sorted((record.job.step, record.state) for record in records if record.job) == [
        *[(10, JobState.QUEUED)] * 2,
        *[(20, JobState.FAILED)] * 2,
    ]
    said = {record.result.error.message for record in records if record.result and record.result.error}
    assert [message.partition(": ")[2] for message in said] == ["there is no such checkpoint file"]


def flags(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", default="the trainer's own")
    add_sampling_arguments(parser)
    return parser.parse_args(given)


def test_the_trainers_own_flags_make_a_sampler(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "p.txt").write_text("a cat\n")
    (tmp_path / "vae.safetensors").touch()
    args = flags(
        *("--sample_prompts", str(tmp_path / "p.txt"), "--sample_every_n_steps", "5", "--sample_at_first"),
        *("--output_dir", str(tmp_path), "--output_name", "lora", "--vae", str(tmp_path / "vae.safetensors")),
        *("--vae_chunk_size", "8", "--fp8_t5", "--dit", "not/here.safetensors", "--rushes_url", redis_url),
    )
    sampler = TrainingSampler.from_args(args, architecture="wan2.1-t2v")
    sampler.close()
    assert sampler.run.model == ModelSpec(
        architecture="wan2.1-t2v", dit="not/here.safetensors", vae=str(tmp_path / "vae.safetensors"), fp8_t5=True
    )
    assert sampler.run.vae == VaeOptions(chunk_size=8)
    assert sampler.run.name.startswith("lora-")
    assert sampler.cadence == Cadence(every_n_steps=5, at_first=True)


def test_single_files_replace_parts_of_a_diffusers_model(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "p.txt").write_text("a cat\n")
    other_families = ("--image_encoder", "y")
    given = ("--dit", "x", "--rushes_model", "Wan-AI/Wan", *other_families)
    args = flags("--sample_prompts", str(tmp_path / "p.txt"), *given)
    args.rushes_url = redis_url
    sampler = TrainingSampler.from_args(args, architecture="wan2.1-t2v")
    assert sampler.due(step=10) is False
    sampler.close()
    assert sampler.run.model == ModelSpec(architecture="wan2.1-t2v", model="Wan-AI/Wan", dit="x")


@pytest.mark.parametrize("rank", ["", "1"])
def test_without_prompts_and_on_other_ranks_nothing_happens(
    tmp_path: Path, redis_url: str, client: Client, monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    given = [
        "--sample_every_n_steps",
        "1",
        "--sample_at_first",
        "--output_dir",
        str(tmp_path),
        "--rushes_url",
        redis_url,
    ]
    if rank:
        (tmp_path / "p.txt").write_text("a cat\n")
        monkeypatch.setenv("RANK", rank)
        given += ["--sample_prompts", str(tmp_path / "p.txt")]
    threads = threading.active_count()
    sampler = TrainingSampler.from_args(flags(*given), architecture="wan2.1-t2v")
    assert not sampler.due(step=0)
    sampler.submit(step=0)
    assert sampler.results() == sampler.close(wait=True) == []
    assert threading.active_count() == threads
    assert client.ids() == []
    assert not (tmp_path / ".rushes").exists()


def test_redis_that_was_never_there_is_a_warning_and_a_spool(
    make: MakeSampler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        sampler = make("redis://127.0.0.1:1/0")
        sampler.submit(step=0)
        sampler.submit(step=10, weights=lora(tmp_path))
        wait_until(lambda: len(spooled(tmp_path)) == 2 and "cannot be reached" in logged(caplog), 10, "the spool")
        assert sampler.results() == sampler.close() == []
    assert len(caplog.records) == 1
    assert len(spooled(tmp_path)) == 2
    assert len(snapshots(tmp_path)) == 1
