"""The next checkpoint is read while a sample is denoised: the same picture, the same errors, bounded memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from engine_support import Recorder, make_job, write_lora
from rushes.errors import CheckpointMissing, LoraValue
from rushes.wire.jobs import SampleJob
from rushes_service.engine.ahead.checkpoints import CheckpointReader
from rushes_service.engine.engine import Engine
from rushes_service.lora import manager
from rushes_service.runtime.host_memory import HostMemory

GIB = 1 << 30
CPU = torch.device("cpu")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = Engine("cpu", tmp_path / "cache", encoder_bytes=GIB)
    engine.shared.reader = CheckpointReader(CPU, lambda: HostMemory(100 * GIB, 90 * GIB))
    return engine


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Name of each file that is read, and of the thread that reads it."""
    read_lora, found = manager.read_lora, []

    def noted(place: Path, *args: Any, **options: Any) -> Any:
        found.append((place.stem, threading.current_thread().name))
        return read_lora(place, *args, **options)

    monkeypatch.setattr(manager, "read_lora", noted)
    return found


@pytest.fixture
def jobs(tiny_wan: Path, tmp_path: Path) -> list[SampleJob]:
    """A sample of each of two checkpoints."""
    return [make_job(tiny_wan, write_lora(tmp_path / f"step-{seed}.safetensors", seed=seed)) for seed in (1, 2)]


def latents(engine: Engine, job: SampleJob, *following: SampleJob) -> torch.Tensor:
    """Those of a sample, once what `following` needs has been read."""
    made = engine.denoise(job, Recorder(), lambda: following).latents
    engine.shared.reader.wait()
    return made


def test_the_next_checkpoint_is_read_by_another_thread_and_once(engine, readers, jobs, tmp_path):
    first, second = jobs
    latents(engine, first, first, second)
    made = latents(engine, second)
    assert [name for name, _ in readers] == ["step-1", "step-2"]
    assert readers[0][1] == threading.main_thread().name != readers[1][1]
    assert torch.equal(made, latents(Engine("cpu", tmp_path / "cache"), second))
    assert not engine.loaded.loras.ahead, "it is in use, and no longer kept for later"


def test_a_sample_of_the_same_checkpoint_needs_no_reading(engine, readers, jobs):
    first, second = jobs
    other_prompt = first.model_copy(update={"prompt": first.prompt.model_copy(update={"seed": 9})})
    latents(engine, first, other_prompt)
    latents(engine, first, second)
    latents(engine, other_prompt, second)
    latents(engine, second)
    assert [name for name, _ in readers] == ["step-1", "step-2"]


def test_a_checkpoint_that_is_overwritten_after_it_was_read_is_told(engine, jobs):
    first, second = jobs
    latents(engine, first, second)
    write_lora(Path(second.checkpoint.path), seed=3)
    with pytest.raises(CheckpointMissing, match="overwritten"):
        latents(engine, second)


def test_a_checkpoint_that_is_deleted_after_it_was_read_is_told(engine, jobs):
    first, second = jobs
    latents(engine, first, second)
    Path(second.checkpoint.path).unlink()
    with pytest.raises(CheckpointMissing, match="no checkpoint at"):
        latents(engine, second)


def test_what_is_wrong_with_the_next_checkpoint_is_told_at_its_own_turn(engine, tiny_wan, tmp_path, jobs):
    wrong = write_lora(tmp_path / "wrong.safetensors", alpha=float("nan"))
    first, second = jobs[0], make_job(tiny_wan, wrong)
    expected = latents(engine, first)
    assert torch.equal(latents(engine, first, second), expected)
    with pytest.raises(LoraValue):
        latents(engine, second)
    assert torch.equal(latents(engine, first), expected)


def test_where_memory_is_scarce_nothing_is_read_ahead(engine, readers, jobs):
    engine.shared.reader = CheckpointReader(CPU, lambda: HostMemory(100 * GIB, 25 * GIB))
    first, second = jobs
    latents(engine, first, second)
    assert [name for name, _ in readers] == ["step-1"]
    latents(engine, second)


def test_what_was_read_ahead_is_given_back_when_memory_is_short(engine, readers, jobs):
    memory = [HostMemory(100 * GIB, 90 * GIB)]
    engine.shared.reader = CheckpointReader(CPU, lambda: memory[-1])
    first, second = jobs
    latents(engine, first, second)
    engine.relieve()
    assert engine.loaded.loras.ahead
    memory.append(HostMemory(100 * GIB, 5 * GIB))
    engine.relieve()
    assert not engine.loaded.loras.ahead
    latents(engine, second)
    assert [name for name, _ in readers] == ["step-1", "step-2", "step-2"]
