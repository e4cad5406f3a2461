"""What must happen in which order: frames are handed on once, and nothing is unloaded under a decode."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from engine_support import Recorder, make_job
from family_support import build_tiny
from rushes_service.engine.engine import Engine
from rushes_service.engine.locks import EngineLocks
from rushes_service.models.wan.tiny import build_tiny_wan
from support import wait_until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny("wan2.1-t2v", tmp_path_factory.mktemp("model") / "wan")


@contextmanager
def failing_call(kind: type[nn.Module], number: int) -> Iterator[None]:
    """Inside, the `number`-th call (from 0) of modules of a kind fails as on a full GPU."""
    calls = iter(range(1_000_000))

    def fail(module: nn.Module, _inputs: Any) -> None:
        if isinstance(module, kind) and next(calls) == number:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = register_module_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_frames_are_handed_on_once_however_late_memory_runs_out(model: Path, tmp_path: Path, failing: int) -> None:
    engine = Engine("cpu", tmp_path / "cache")
    job = make_job(model, frame_count=13)
    wanted = np.stack(list(engine.denoise(job, Recorder()).frames()))
    made = engine.denoise(job, Recorder())
    with failing_call(type(engine.loaded.base.vae.decoder), failing):  # type: ignore[union-attr]
        frames = np.stack(list(made.frames()))
    assert frames.shape == wanted.shape
    assert np.array_equal(frames, wanted)


def test_a_model_is_not_unloaded_while_a_sample_of_it_is_decoded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine("cpu", tmp_path / "cache")
    waiting, go_on = threading.Event(), threading.Event()
    really_wait = EngineLocks.wait_for_decoding

    def wait(locks: EngineLocks) -> None:
        waiting.set()
        really_wait(locks)

    monkeypatch.setattr(EngineLocks, "wait_for_decoding", wait)
    order: list[str] = []

    class Slow(Recorder):
        """Stays in the middle of its decode until it may go on."""

        def step(self, done: int, total: int) -> None:
            super().step(done, total)
            if self.stages[-1] == "decode":
                go_on.wait(60)

    class Noting(Recorder):
        def stage(self, name: str, total: int = 0) -> None:
            order.append(name)
            super().stage(name, total)

    slow, noting = Slow(), Noting()
    first = engine.denoise(make_job(model, frame_count=9), slow)

    def decode() -> None:
        list(first.frames())
        order.append("decoded")

    decoding = threading.Thread(target=decode)
    decoding.start()
    wait_until(lambda: "decode" in slow.stages and len(slow.steps) > 2, 30, "the decode to begin")
    other = build_tiny_wan(tmp_path / "other", seed=1)
    waiting.clear()
    loading = threading.Thread(target=lambda: engine.denoise(make_job(other), noting))
    loading.start()
    wait_until(lambda: waiting.is_set() or bool(order), 30, "the next sample to wait, or to load its model")
    go_on.set()
    for thread in (decoding, loading):
        thread.join(60)
    assert order[:2] == ["decoded", "load"]
