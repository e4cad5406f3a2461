"""What a worker holds while it cannot begin: the lease of a sample that waits for the one before."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from queue_support import MODEL, make_job
from rushes.client.client import Client
from rushes.errors import LeaseLost, QueueUnavailable
from rushes.wire import keys
from rushes.wire.jobs import SampleJob
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobState
from rushes_service.queue import Queue, Reservation
from rushes_service.settings import Settings
from rushes_service.worker.dry_run import DryRunEngine, PaintedSample
from rushes_service.worker.lease import Lease, Progress, Shutdown
from rushes_service.worker.loop import Worker
from support import wait_until

LEASE_S = 4.0
OTHER = ModelSpec(architecture="wan2.1-t2v", model="/models/other")


@dataclasses.dataclass(frozen=True)
class SlowSample(PaintedSample):
    """Cannot be decoded before something has happened."""

    first: Callable[[], None] = lambda: None

    def frames(self) -> Iterator[np.ndarray]:
        self.first()
        return super().frames()


class SlowDecode(DryRunEngine):
    """Rehearses; samples of `MODEL` are decoded after `first` has returned."""

    def __init__(self, first: Callable[[], None]) -> None:
        super().__init__(step_s=0)
        self._first = first

    def denoise(self, job: SampleJob, watch: Lease, _waiting: object = None) -> PaintedSample:
        denoised = super().denoise(job, watch)
        if job.model != MODEL:
            return denoised
        return SlowSample(denoised.parameters, denoised.step, first=self._first)


@pytest.fixture
def signals() -> Iterator[None]:
    """A worker in this process leaves its handlers behind."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.mark.usefixtures("signals")
def test_a_sample_that_waits_for_the_one_before_it_is_nobody_elses(redis_url: str, tmp_path: Path) -> None:
    with contextlib.closing(Client(redis_url)) as client:
        jobs = [make_job(model=model, output_dir=tmp_path, width=32, height=32) for model in (MODEL, OTHER)]
        first, second = client.submit(jobs)
        rival = Queue(redis_url, worker="rival", lease_s=LEASE_S)
        stolen: list[object] = []

        def long_decode() -> None:
            wait_until(lambda: client.get(second).state is JobState.RUNNING, 30, "the second sample to be reserved")
            stolen.extend(rival.reserve(wait_s=LEASE_S) for _ in range(3))

        settings = Settings(cache_dir=tmp_path / "cache", lease_s=LEASE_S, heartbeat_s=0.05)
        queue = Queue(redis_url, worker="slow", lease_s=LEASE_S)
        Worker(queue, SlowDecode(long_decode), settings, until_empty=True).run()
        assert stolen == [None] * 3
        assert [client.get(job_id).state for job_id in (first, second)] == [JobState.DONE] * 2


class SlowLoad(DryRunEngine):
    """Loads for a minute, with no step in between; tells `begun` when it begins."""

    def __init__(self, begun: threading.Event) -> None:
        super().__init__(step_s=0)
        self._begun = begun

    def denoise(self, job: SampleJob, watch: Lease, _waiting: object = None) -> PaintedSample:
        watch.stage("load")
        self._begun.set()
        for _ in range(600):  # not one wait: a signal right before it would be heard after it only
            threading.Event().wait(0.1)
        raise AssertionError("nobody ended the load")


@pytest.mark.usefixtures("signals")
def test_a_worker_that_is_told_to_stop_while_it_loads_hands_its_sample_back(redis_url: str, tmp_path: Path) -> None:
    with contextlib.closing(Client(redis_url)) as client:
        (sample,) = client.submit([make_job(output_dir=tmp_path, width=32, height=32)])
        begun = threading.Event()

        def terminate() -> None:
            begun.wait(30)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=terminate)
        thread.start()
        settings = Settings(cache_dir=tmp_path / "cache", lease_s=LEASE_S, heartbeat_s=0.05, grace_s=0.1)
        queue = Queue(redis_url, worker="loading", lease_s=LEASE_S)
        Worker(queue, SlowLoad(begun), settings).run()
        thread.join()
        assert client.get(sample).state is JobState.QUEUED
        client.redis.flushdb()


def a_lease(queue: Queue, reservation: Reservation, beat: Callable[[Progress], None]) -> Lease:
    return Lease(queue, reservation, "run", heartbeat_s=0.05, shutdown=Shutdown(0), beat=beat)


@pytest.fixture
def held(redis_url: str) -> Iterator[tuple[Queue, Reservation]]:
    """A worker's queue, and a sample that it has reserved."""
    with contextlib.closing(Client(redis_url)) as client:
        client.submit([make_job()])
        queue = Queue(redis_url, worker="holder", lease_s=LEASE_S)
        reservation = queue.reserve()
        assert reservation is not None
        yield queue, reservation
        client.redis.flushdb()


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: no driver"), OSError("no /proc"), KeyError("x")])
def test_a_lease_is_renewed_whatever_announcing_raises(
    held: tuple[Queue, Reservation], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    queue, reservation = held
    beats: list[Progress] = []

    def beat(progress: Progress) -> None:
        beats.append(progress)
        raise error

    with a_lease(queue, reservation, beat) as lease:
        lease.stage("denoise", 9)
        wait_until(lambda: len(beats) > 3, 10, "more heartbeats")
        lease.step(5, 9)
        record = keys.job(reservation.id)
        wait_until(lambda: queue.redis.hget(record, "step") == "5", 10, "the progress of a later renewal")
    assert str(error) in caplog.text
    assert caplog.text.count("Traceback") == 1


def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    held: tuple[Queue, Reservation], caplog: pytest.LogCaptureFixture
) -> None:
    queue, reservation = held
    caplog.set_level(logging.INFO, "rushes.worker")
    away, asked = threading.Event(), 0

    def beat(_: Progress) -> None:
        nonlocal asked
        asked += 1
        if away.is_set():
            raise QueueUnavailable("Redis cannot be reached")

    with a_lease(queue, reservation, beat):
        for _ in range(2):
            away.set()
            before = asked
            wait_until(lambda before=before: asked > before + 4, 10, "heartbeats without Redis")  # type: ignore[misc]
            away.clear()
            before = asked
            wait_until(lambda before=before: asked > before + 1, 10, "heartbeats with it")  # type: ignore[misc]
    said = [record.getMessage() for record in caplog.records if record.name == "rushes.worker"]
    assert [("for now" in text, "is back" in text) for text in said] == [(True, False), (False, True)] * 2


def test_a_lease_is_renewed_again_after_answers_that_make_no_sense(
    held: tuple[Queue, Reservation], caplog: pytest.LogCaptureFixture
) -> None:
    queue, reservation = held
    record = keys.job(reservation.id)
    with a_lease(queue, reservation, lambda _progress: None) as lease:
        kept = queue.redis.hgetall(record)
        queue.redis.set(record, "no record")  # every script answers WRONGTYPE now
        wait_until(lambda: "WRONGTYPE" in caplog.text, 10, "the error to be said")
        queue.redis.delete(record)
        queue.redis.hset(record, mapping=kept)
        lease.step(7, 9)
        wait_until(lambda: queue.redis.hget(record, "step") == "7", 10, "the lease to be renewed again")
        lease.check()


def test_a_lease_that_was_lost_stays_lost(held: tuple[Queue, Reservation]) -> None:
    """Another worker may have written the file by the time that the entry comes back."""
    queue, reservation = held
    beats: list[Progress] = []

    def claim(worker: str) -> None:
        queue.redis.xclaim(reservation.lane, keys.GROUP, worker, 0, [reservation.entry])

    with a_lease(queue, reservation, beats.append) as lease:
        claim("thief")
        wait_until(lambda: _lost(lease), 10, "the loss to be noticed")
        claim("holder")
        seen = len(beats)
        wait_until(lambda: len(beats) > seen + 2, 10, "more renewals")
        with pytest.raises(LeaseLost):
            lease.check()


def _lost(lease: Lease) -> bool:
    try:
        lease.check()
    except LeaseLost:
        return True
    return False
