"""The worker's loop: reserve a sample, make it, end it. A sample that fails is not a worker that fails.

A sample is denoised in this thread, then decoded and written in another one while the next is reserved and denoised.
There are never more than these two, each with a lease of its own.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable

from rushes.errors import LeaseLost, QueueUnavailable, WireError
from rushes.wire.jobs import JobError, JobState, SampleJob, SampleResult
from rushes_service.queue import Queue, Reservation
from rushes_service.settings import Settings
from rushes_service.storage.staged import StagedFiles
from rushes_service.worker.attempt import Attempt, Outcome, WorkerContext
from rushes_service.worker.background import Background
from rushes_service.worker.lease import Shutdown
from rushes_service.worker.path_map import PathMap
from rushes_service.worker.sample import SAME_PATHS, Sampler

logger = logging.getLogger("rushes.worker")

ANNOUNCE_EVERY_S = 2.0
IDLE_WAIT_S = 1.0
FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 10.0
"""Bounds of the wait between two tries to reach Redis."""


def worker_name(device: str) -> str:
    """A name that no other worker has: host, device, process, and four random digits."""
    return f"{socket.gethostname()}-{device.replace(':', '')}-{os.getpid()}-{secrets.token_hex(2)}"


class Worker:
    """Makes samples until it is asked to stop.

    Args:
        queue: named after this worker.
        engine: keeps the base model warm.
        settings: lease, grace, attempts.
        until_empty: end when there is nothing more to do.
        paths: what submitters' directories are called on this machine.
    """

    def __init__(
        self,
        queue: Queue,
        engine: Sampler,
        settings: Settings,
        *,
        until_empty: bool = False,
        paths: PathMap = SAME_PATHS,
    ) -> None:
        self.queue = queue
        self.engine = engine
        self.settings = settings
        self.until_empty = until_empty
        self.paths = paths
        self.staged = StagedFiles(settings.cache_dir, settings.staged_bytes)
        self.shutdown = Shutdown(settings.grace_s)
        self._background = Background()
        self._announced = 0.0
        self._order: str | None = None
        self._label = ""
        self._lane_models: dict[str, str] = {}
        """Fingerprints of models in this machine's paths -> those that their lanes are named by."""
        self._pause_s = FIRST_PAUSE_S

    def run(self) -> None:
        """Work until asked to stop.

        Raises:
            WorkerUnfit: this process must not go on; its sample is left for another worker.
        """
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: self.shutdown.ask())
        logger.info("ready on %s", self.engine.device)
        try:
            self._work()
        finally:
            self._background.wait()
        self._persist(self.queue.leave, "leaving")

    def _work(self) -> None:
        """Make one sample after the other."""
        while not self.shutdown.asked.is_set():
            try:
                if not self._turn() and self._nothing_left():
                    return
                self._pause_s = FIRST_PAUSE_S
            except QueueUnavailable as error:
                logger.warning("%s; trying again in %.1f s", error, self._pause_s)
                self.shutdown.asked.wait(self._pause_s)
                self._pause_s = min(self._pause_s * 2, LAST_PAUSE_S)

    def _nothing_left(self) -> bool:
        """True if this worker is to end, as there is nothing more to do."""
        if not self.until_empty:
            return False
        # A sample that is being finished may yet be tried again.
        self._background.wait()
        return not self.queue.retries_waiting()

    def _turn(self) -> bool:
        """Make one sample, or wait a moment for one; False when there was none."""
        self._background.check()
        if not self._background.busy:
            self._announce("paused" if self._order == "pause" else "idle")
        if self._order is not None:
            self.shutdown.asked.wait(IDLE_WAIT_S)
            return False
        held = self.queue.reserve(self._loaded_model(), wait_s=IDLE_WAIT_S)
        if held is None:
            return False
        job = self._job_of(held)
        if job is not None:
            self._serve(held, job)
        return True

    def _loaded_model(self) -> str | None:
        """Fingerprint of the loaded model in the words of those who submit."""
        loaded = self.engine.loaded_model
        return self._lane_models.get(loaded, loaded) if loaded else None

    def _job_of(self, held: Reservation) -> SampleJob | None:
        """What is to be made; None, with the queue told, if nothing is."""
        job, told = self._read(held)
        if told is None:
            return job
        self._persist(told, f"the end of sample {held.id}")
        return None

    def _read(self, held: Reservation) -> tuple[SampleJob | None, Callable[[], None] | None]:
        """The job of a reservation, and what is to be told to the queue if it is not to be tried."""
        if held.deliveries > self.settings.max_deliveries:
            logger.error("sample %s is set aside: %d workers did not survive it", held.id, held.deliveries - 1)
            reason = f"{held.deliveries - 1} workers did not survive this sample; `rushes jobs retry` tries it again"
            return None, lambda: self.queue.bury(held, reason)
        try:
            job = held.job()
        except WireError as error:
            logger.error("sample %s is set aside: %s", held.id, error)
            unreadable = str(error)
            return None, lambda: self.queue.bury(held, unreadable)
        newer = held.superseded_by
        if newer is not None:
            logger.info("step %d, prompt %d: superseded by step %d", job.step, job.prompt_index, newer)
            return None, lambda: self.queue.finish(held, JobState.SUPERSEDED, superseded(job, newer))
        return job, None

    def _serve(self, held: Reservation, job: SampleJob) -> None:
        """Try one sample. Its second half goes on in the background, if that may be."""
        logger.info("step %d, prompt %d: %s", job.step, job.prompt_index, job.prompt.prompt[:60])
        self._label = job.model.label
        here = self.paths.job_here(job).model.fingerprint
        self._lane_models[here] = job.model.fingerprint
        means = WorkerContext(self.queue, self.engine, self.settings, self.paths, self.staged, self.shutdown)
        attempt = Attempt(means, held, job, lambda info: self._announce("sampling", info))
        # Two base models at once are too many. The lease is renewed meanwhile: a clip takes its time to be decoded.
        attempt.hold(self._background.wait if here != self.engine.loaded_model else self._background.check)
        ended = attempt.denoise()
        if ended is not None:
            self._end(attempt, ended)
        elif self.settings.overlap and self.engine.overlaps:
            self._background.start(lambda: self._end(attempt, attempt.finish()))
        else:
            self._background.wait()
            self._end(attempt, attempt.finish())

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Say and tell how a sample ended."""
        job = attempt.job
        logger.log(outcome.level, "step %d, prompt %d: %s", job.step, job.prompt_index, outcome.said)
        self._persist(outcome.told, f"the end of sample {job.id}")

    def _persist(self, tell: Callable[[], None], what: str) -> None:
        """Tell the queue, however long it is away: the work is done and must not be done again."""
        while True:
            try:
                tell()
                return
            except LeaseLost as error:
                logger.warning("%s is not told: %s", what, error)
                return
            except QueueUnavailable as error:
                if self.shutdown.asked.is_set():
                    logger.warning("%s is not told, the worker is shutting down: %s", what, error)
                    return
                logger.warning("%s cannot be told yet: %s", what, error)
                self.shutdown.asked.wait(self._pause_s)
                self._pause_s = min(self._pause_s * 2, LAST_PAUSE_S)

    def _announce(self, state: str, more: dict[str, str] | None = None) -> None:
        """Tell everybody what this worker is doing, every few seconds at most, and hear what it is to do."""
        if time.monotonic() < self._announced + ANNOUNCE_EVERY_S:
            return
        self._announced = time.monotonic()
        model = {"model": self._loaded_model() or "", "label": self._label}
        memory = {name: str(count) for name, count in self.engine.memory.items()}
        facts = {"state": state, "device": str(self.engine.device)}
        self._order = self.queue.announce({**facts, **memory, **model, **(more or {})})
        if self._order == "drain":
            self.shutdown.drain()


def superseded(job: SampleJob, newer_step: int) -> SampleResult:
    """The result of a sample that is not made because a newer checkpoint waits."""
    error = JobError(code="superseded", message=f"step {newer_step} was submitted before this one was sampled")
    return SampleResult.of(job, JobState.SUPERSEDED, error=error)
