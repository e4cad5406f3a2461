"""Two threads on one engine: what may go on at once, and what waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine_support import Recorder, make_job
from family_support import build_tiny
from rushes_service.engine.engine import Engine
from rushes_service.engine.locks import EngineLocks
from rushes_service.worker.background import Background
from support import wait_until


class Gate:
    """Work that begins, and ends when it is let through."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        self.open.wait(60)


def test_nothing_begins_in_the_background_before_the_last_has_ended():
    background, first, order = Background(), Gate(), list[str]()
    background.start(first)
    starting = in_thread(lambda: background.start(lambda: order.append("second")))
    wait_until(first.begun.is_set, 10, "the first work")
    assert background.busy
    order.append("first ends")
    first.open.set()
    starting.join(60)
    background.wait()
    assert order == ["first ends", "second"]


def test_what_background_work_raises_is_raised_where_it_is_waited_for():
    background = Background()

    def fail() -> None:
        raise ValueError("broken")

    background.start(fail)
    with pytest.raises(ValueError, match="broken"):
        background.wait()
    background.wait()
    assert not background.busy


def test_waiting_for_decoding_means_that_of_other_threads():
    locks, gate = EngineLocks(), Gate()

    def decode() -> None:
        with locks.register_decode():
            gate()

    decoding = in_thread(decode)
    wait_until(gate.begun.is_set, 10, "the decode")
    waiting = in_thread(locks.wait_for_decoding)
    assert waiting.is_alive()
    gate.open.set()
    for thread in (decoding, waiting):
        thread.join(60)
        assert not thread.is_alive()
    with locks.register_decode():
        locks.wait_for_decoding()
    assert not locks.decoding


def test_a_decode_that_was_handed_over_is_waited_for_before_its_thread_begins():
    locks = EngineLocks()
    handed_over = locks.register_decode(here=False)
    waiting = in_thread(locks.wait_for_decoding)
    assert locks.decoding
    in_thread(lambda: (handed_over.claim(), handed_over.release())).join(10)
    waiting.join(10)
    assert not waiting.is_alive()


def test_frames_are_the_same_when_the_next_sample_is_denoised_meanwhile(tmp_path: Path):
    model, engine = build_tiny("wan2.1-t2v", tmp_path / "wan"), Engine("cpu", tmp_path / "cache")
    jobs = [make_job(model, seed=seed) for seed in range(4)]
    alone = [np.stack(list(engine.denoise(job, Recorder()).frames())) for job in jobs]
    together: dict[int, np.ndarray] = {}
    background = Background()
    for number, job in enumerate(jobs):
        denoised = engine.denoise(job, Recorder())
        background.start(
            lambda number=number, denoised=denoised: together.update({number: np.stack(list(denoised.frames()))})
        )
    background.wait()
    assert all(np.array_equal(together[number], frames) for number, frames in enumerate(alone))


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
