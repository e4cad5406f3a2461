"""Workers as processes: killed, stopped, cancelled, fed with bad files. No sample is lost and none is made twice."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path

import pytest
import torch
from processes import Workers
from safetensors.torch import save_file

from engine_support import write_lora
from queue_support import make_job
from rushes.checkpoints.safetensors import fingerprint
from rushes.client.client import Client
from rushes.client.control import order
from rushes.wire.jobs import Checkpoint, SampleJob
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobState, SampleResult
from support import wait_until

START_S = 90.0
"""A worker imports torch and diffusers first; the machine may be busy."""

SAMPLE_S = 60.0
MANY_STEPS = 150
"""Some seconds of denoising: time to interfere."""


@pytest.fixture
def model(tiny_wan: Path) -> ModelSpec:
    return ModelSpec(architecture="wan2.1-t2v", model=str(tiny_wan))


def sample_job(tmp_path: Path, model: ModelSpec, *, index: int = 0, **options: object) -> SampleJob:
    defaults = {"width": 32, "height": 32, "frame_count": 5, "sample_steps": 2}
    checkpoint = options.pop("checkpoint", None)
    output_dir = options.pop("output_dir", tmp_path / "out")
    return make_job(
        model=model,
        output_dir=output_dir,  # type: ignore[arg-type]
        index=index,
        checkpoint=checkpoint,  # type: ignore[arg-type]
        **{**defaults, **options},
    )


def long_job(tmp_path: Path, model: ModelSpec, index: int = 0) -> SampleJob:
    return sample_job(tmp_path, model, index=index, sample_steps=MANY_STEPS)


def wait_for_steps(client: Client, job_id: str) -> str:
    """Wait until a sample is being denoised; returns its worker."""
    record = wait_until(
        lambda: (found := client.get(job_id)).stage == "denoise" and found.step > 0 and found,
        START_S,
        "the first steps of the sample",
    )
    assert record and record.worker
    return record.worker


def ended(client: Client, job_id: str, timeout: float = SAMPLE_S) -> SampleResult:
    result = wait_until(
        lambda: (found := client.get(job_id)).state.terminal and found.result, timeout, "the end of the sample"
    )
    assert result
    return result


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out" / "sample").iterdir())


def assert_one_whole_sample(client: Client, tmp_path: Path, result: SampleResult) -> None:
    """Exactly one file with its receipt, no temporary file, one end in the results; its noise was the CPU's."""
    assert result.state is JobState.DONE
    assert result.noise == "cpu"
    assert result.path and result.receipt
    assert files(tmp_path) == sorted([Path(result.path).name, Path(result.receipt).name])
    assert [found.state for found in client.results("run")[0]] == [JobState.DONE]


def test_a_killed_workers_sample_is_finished_by_another(
    client: Client, pool: Workers, tmp_path: Path, model: ModelSpec
) -> None:
    [job_id] = client.submit([long_job(tmp_path, model)])
    first = pool.start()
    killed = wait_for_steps(client, job_id)
    first.kill()
    pool.start()
    result = ended(client, job_id, START_S)
    assert result.worker != killed
    assert_one_whole_sample(client, tmp_path, result)


def test_a_stopped_worker_that_comes_back_late_discards_its_work(
    client: Client, pool: Workers, tmp_path: Path, model: ModelSpec
) -> None:
    [job_id] = client.submit([long_job(tmp_path, model)])
    first = pool.start()
    late = wait_for_steps(client, job_id)
    first.send_signal(signal.SIGSTOP)
    pool.start()
    result = ended(client, job_id, START_S)
    assert result.worker != late
    first.send_signal(signal.SIGCONT)
    wait_until(lambda: "discarded" in pool.logs(), SAMPLE_S, "the late worker to discard its work")
    assert_one_whole_sample(client, tmp_path, result)


def test_a_terminated_worker_finishes_its_sample_and_takes_no_other(
    client: Client, pool: Workers, tmp_path: Path, model: ModelSpec
) -> None:
    first, second = client.submit([long_job(tmp_path, model), sample_job(tmp_path, model, index=1)])
    worker = pool.start()
    wait_for_steps(client, first)
    worker.terminate()
    assert worker.wait(SAMPLE_S) == 0
    assert client.get(first).state is JobState.DONE
    assert client.get(second).state is JobState.QUEUED
    assert client.workers() == []


def test_a_worker_without_grace_hands_its_sample_back(
    client: Client, pool: Workers, tmp_path: Path, model: ModelSpec
) -> None:
    [job_id] = client.submit([long_job(tmp_path, model)])
    worker = pool.start(RUSHES_GRACE_S="0")
    wait_for_steps(client, job_id)
    worker.terminate()
    assert worker.wait(SAMPLE_S) == 0
    record = client.get(job_id)
    assert (record.state, record.worker) == (JobState.QUEUED, None)
    assert not (tmp_path / "out" / "sample").exists() or files(tmp_path) == []


def test_a_running_sample_is_cancelled_at_its_next_step_and_the_worker_goes_on(
    client: Client, pool: Workers, tmp_path: Path, model: ModelSpec
) -> None:
    cancelled, other = client.submit([long_job(tmp_path, model), sample_job(tmp_path, model, index=1)])
    worker = pool.start()
    wait_for_steps(client, cancelled)
    assert client.cancel(cancelled) is JobState.RUNNING
    assert ended(client, other).state is JobState.DONE
    assert client.get(cancelled).state is JobState.CANCELLED
    assert worker.poll() is None
    assert len(files(tmp_path)) == 2


def test_a_worker_whose_device_breaks_exits_without_a_word_to_the_queue(
    client: Client, pool: Workers, tmp_path: Path, model: ModelSpec
) -> None:
    [job_id] = client.submit([sample_job(tmp_path, model)])
    broken = pool.program("unfit_worker.py")
    assert broken.wait(START_S) != 0
    assert client.get(job_id).state is JobState.RUNNING
    assert client.results("run")[0] == []
    pool.start()
    assert_one_whole_sample(client, tmp_path, ended(client, job_id, START_S))


def test_a_sample_that_no_worker_survives_is_set_aside(
    client: Client, pool: Workers, tmp_path: Path, model: ModelSpec
) -> None:
    deadly, good = client.submit([sample_job(tmp_path, model), sample_job(tmp_path, model, index=1)])
    pool.program("unfit_worker.py").wait(START_S)
    pool.start(RUSHES_MAX_DELIVERIES="1")
    result = ended(client, deadly, START_S)
    assert result.state is JobState.DEAD
    assert result.error and "retry" in result.error.message
    assert ended(client, good).state is JobState.DONE
    assert client.get(deadly).job is not None


def test_each_bad_input_fails_its_own_sample_and_the_worker_goes_on(
    client: Client, pool: Workers, tmp_path: Path, model: ModelSpec
) -> None:
    lora = write_lora(tmp_path / "good.safetensors")
    good = Checkpoint(path=str(lora), fingerprint=fingerprint(lora))
    in_the_way = tmp_path / "file"
    in_the_way.write_text("a file where a directory should be")
    cases = {
        "checkpoint_incomplete": {"checkpoint": truncated(tmp_path, lora)},
        "lora_mismatch": {"checkpoint": foreign(tmp_path)},
        "checkpoint_missing": {"checkpoint": Checkpoint(path=str(tmp_path / "gone.safetensors"), fingerprint="0")},
        "checkpoint_format": {"checkpoint": pickled(tmp_path)},
        "output": {"output_dir": in_the_way},
        "prompt": {"width": 7},
        "model": {"model": ModelSpec(architecture="wan2.1-t2v", model=str(tmp_path / "no-model"))},
    }
    bad = {
        code: client.submit([sample_job(tmp_path, **{"model": model, **case}, index=index)])[0]
        for index, (code, case) in enumerate(cases.items())
    }
    [last] = client.submit([sample_job(tmp_path, model, index=99, checkpoint=good)])
    worker = pool.start("--until-empty")
    assert worker.wait(START_S + SAMPLE_S) == 0
    assert ended(client, last).state is JobState.DONE
    for code, job_id in bad.items():
        result = ended(client, job_id)
        assert (result.state, result.error and result.error.code) == (JobState.FAILED, code)
    messages = {code: client.get(job_id).result.error.message for code, job_id in bad.items()}  # type: ignore[union-attr]
    assert "gone.safetensors" in messages["checkpoint_missing"]
    assert "pickle" in messages["checkpoint_format"]
    assert "hunyuan-video" in messages["lora_mismatch"]
    assert str(in_the_way) in messages["output"]
    assert "Traceback" not in pool.logs()
    assert len(files(tmp_path)) == 2


def test_a_sample_whose_directory_is_not_here_fails_before_it_is_computed(
    client: Client, pool: Workers, tmp_path: Path, model: ModelSpec
) -> None:
    [job_id] = client.submit([sample_job(tmp_path, model)])
    (tmp_path / "out").rmdir()  # made by the client, and not mounted where the worker runs
    assert pool.start("--dry-run", "--until-empty").wait(START_S) == 0
    record = client.get(job_id)
    assert record.state is JobState.FAILED
    assert record.attempt == 0
    assert record.result and record.result.error
    assert record.result.error.code == "output"
    assert f"{tmp_path / 'out'} is not there" in record.result.error.message
    assert "--map" in record.result.error.message
    assert not (tmp_path / "out").exists()


def truncated(tmp_path: Path, whole: Path) -> Checkpoint:
    path = tmp_path / "truncated.safetensors"
    path.write_bytes(whole.read_bytes()[:-100])
    return Checkpoint(path=str(path), fingerprint=fingerprint(path))


def foreign(tmp_path: Path) -> Checkpoint:
    path = tmp_path / "foreign.safetensors"
    names = [f"lora_unet_double_blocks_{n}_img_attn_qkv" for n in range(3)]
    save_file({f"{name}.lora_{half}.weight": torch.zeros(4, 4) for name in names for half in ("down", "up")}, path)
    return Checkpoint(path=str(path), fingerprint=fingerprint(path))


def pickled(tmp_path: Path) -> Checkpoint:
    path = tmp_path / "lora.pt"
    path.write_bytes(pickle.dumps({"a": 1}))
    return Checkpoint(path=str(path), fingerprint=fingerprint(path))


def test_a_paused_worker_takes_nothing_until_resumed_and_a_drained_one_ends(
    client: Client, pool: Workers, tmp_path: Path, model: ModelSpec
) -> None:
    worker = pool.start("--dry-run")
    name = wait_until(lambda: [info["name"] for info in client.workers()], START_S, "the worker")[0]
    order(client, [name], "pause")
    wait_until(lambda: client.workers()[0]["state"] == "paused", SAMPLE_S, "the pause")
    [job_id] = client.submit([sample_job(tmp_path, model)])
    wait_until(lambda: "paused" in {info["state"] for info in client.workers()}, SAMPLE_S, "another heartbeat")
    assert client.get(job_id).state is JobState.QUEUED
    order(client, [name], "resume")
    assert ended(client, job_id).state is JobState.DONE
    order(client, [name], "drain")
    assert worker.wait(SAMPLE_S) == 0
    assert client.workers() == []


def test_a_worker_that_lags_behind_skips_checkpoints_when_the_run_keeps_the_latest(
    client: Client, pool: Workers, tmp_path: Path, model: ModelSpec
) -> None:
    jobs = [
        make_job(model=model, output_dir=tmp_path / "out", step=step, sample_steps=2).model_copy(
            update={"keep": "latest"}
        )
        for step in (0, 100, 200, 300)
    ]
    ids = client.submit(jobs)
    assert pool.start("--dry-run", "--until-empty").wait(START_S) == 0
    states = [client.get(job_id).state.value for job_id in ids]
    assert states == ["done", "superseded", "superseded", "done"]
