"""What a worker holds while it cannot begin: the lease of a sample that waits for the one before."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from queue_support import MODEL, make_job
from rushes.client.client import Client
from rushes.wire.jobs import JobState, ModelSpec, SampleJob
from rushes_service.queue import Queue
from rushes_service.settings import Settings
from rushes_service.worker.dry_run import DryRunEngine, PaintedSample
from rushes_service.worker.lease import Lease
from rushes_service.worker.loop import Worker
from support import wait_until

LEASE_S = 1.5
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

    def denoise(self, job: SampleJob, watch: Lease) -> PaintedSample:
        denoised = super().denoise(job, watch)
        if job.model != MODEL:
            return denoised
        return SlowSample(denoised.parameters, denoised.step, first=self._first)


@pytest.fixture
def signals() -> Iterator[None]:
    """A worker in this process leaves its handlers behind."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
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
