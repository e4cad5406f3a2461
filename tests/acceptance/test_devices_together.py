"""A worker with two devices, which are two processes on the CPU, beside an engine with one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from processes import Workers

from engine_support import Recorder, write_lora
from family_support import SIZE, tiny_model_spec, tiny_options
from forked_support import Forked
from queue_support import empty_safetensors, make_job
from rushes.checkpoints.safetensors import fingerprint
from rushes.client.client import Client
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import Checkpoint, SampleJob
from rushes.wire.results import JobState
from rushes_service.engine.engine import Engine
from rushes_service.media.receipts import read_receipt
from support import wait_until

WORKER_S = 300.0
STEPS_S = 120.0
MANY_STEPS = 150
"""Some seconds of denoising: time to interfere."""

FAMILIES = ("wan2.1-t2v", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b", "flux1-kontext", "flux2-klein", "qwen-image")
"""One of each transformer class and plan; the second has two transformers."""

ODD = {"width": 3 * SIZE // 2, "height": 3 * SIZE // 2}
"""Nine tokens of the tiny Wan: one process has five of them, the other four."""

LARGER = {"width": 2 * SIZE, "height": 2 * SIZE}
"""At 32 pixels Wan 2.2 TI2V-5B has one token, which nobody can share."""


def job_of(family: str, directory: Path, lora: Path | None = None, run: str | None = None, **options: int) -> SampleJob:
    spec = ARCHITECTURES[family]
    model = tiny_model_spec(family, directory / "models")
    usual = tiny_options(spec, directory / "inputs" / family, None if spec.image_only else 1)
    checkpoint = Checkpoint(path=str(lora), fingerprint=fingerprint(lora)) if lora else None
    run = run or family
    return make_job(run=run, model=model, output_dir=directory / run, checkpoint=checkpoint, **{**usual, **options})


def assert_as_alone(client: Client, job: SampleJob, engine: Engine, facts: dict[str, object]) -> None:
    """The picture of a worker is that of `engine`, and its receipt says how it was made."""
    result = client.get(job.id).result
    assert result.state is JobState.DONE, result
    pixels = torch.cat(list(engine.denoise(job, Recorder()).pixels()), dim=1)
    picture = torch.from_numpy(np.asarray(Image.open(result.path), dtype="float32")).permute(2, 0, 1)
    assert (picture - 255 * pixels[:, 0]).abs().max() <= 1.5, job.model.architecture
    receipt = read_receipt(Path(result.receipt))
    assert {name: receipt[name] for name in facts} == facts


def start(pool: Workers, way: str, *flags: str) -> Forked:
    return pool.start("--device", "auto", "--devices", "cpu,cpu", "--parallel", way, *flags)


def wait_for_steps(client: Client, job: SampleJob, *, not_of: str | None = None) -> str:
    """Wait until a worker, another one than `not_of`, denoises a sample; returns its name."""

    def begun() -> str | None:
        found = client.get(job.id)
        return found.worker if found.step > 0 and found.worker != not_of else None

    worker = wait_until(begun, STEPS_S, "the first steps of the sample")
    assert worker
    return worker


@pytest.mark.timeout(900)
def test_two_devices_make_the_same_pictures_as_one(client: Client, pool: Workers, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora.safetensors")
    jobs = [
        job_of("wan2.1-t2v", tmp_path, lora, "odd", **ODD),
        *(job_of(family, tmp_path, **LARGER) for family in FAMILIES),
    ]
    wrong = job_of("wan2.1-t2v", tmp_path, empty_safetensors(tmp_path / "wrong.safetensors"), "wrong")
    client.submit([wrong, *jobs])
    worker = start(pool, "ulysses", "--until-empty")
    assert worker.wait(WORKER_S) == 0, pool.logs()
    assert "cpu, cpu make each sample together; only those of flux1-kontext, " in pool.logs()
    engine = Engine("cpu", tmp_path / "alone")
    for job in jobs:
        assert_as_alone(client, job, engine, {"parallel": {"way": "ulysses", "devices": 2}, "attention": "native"})
    assert client.get(wrong.id).result.state is JobState.FAILED
    assert client.get(wrong.id).result.error.code == "lora_mismatch"


@pytest.mark.timeout(900)
def test_processes_of_a_sample_live_and_end_together(client: Client, pool: Workers, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora.safetensors")
    cancelled = job_of("wan2.1-t2v", tmp_path, run="cancelled", sample_steps=MANY_STEPS)
    job = job_of("wan2.1-t2v", tmp_path, lora, sample_steps=MANY_STEPS)
    client.submit([cancelled])
    first = start(pool, "ring")
    wait_for_steps(client, cancelled)
    client.submit([job])
    client.cancel(cancelled.id)
    killed = wait_for_steps(client, job)
    assert client.get(cancelled.id).state is JobState.CANCELLED

    [follower] = psutil.Process(first.pid).children()
    follower.kill()
    assert first.wait(STEPS_S) == 70, pool.logs()

    second = start(pool, "ring")
    wait_for_steps(client, job, not_of=killed)
    [follower] = psutil.Process(second.pid).children()
    os.killpg(second.pid, signal.SIGTERM)  # as a service manager does
    assert second.wait(STEPS_S) == 0, pool.logs()
    assert follower.wait(STEPS_S) in (0, None)
    how = {"parallel": {"way": "ring", "devices": 2}, "attention": "native_flash"}
    assert_as_alone(client, job, Engine("cpu", tmp_path / "alone"), how)
