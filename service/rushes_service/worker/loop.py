"""The worker's loop: reserve a sample, make it, report it. A failed sample does not end the worker.

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
from collections.abc import Callable, Mapping

from rushes._terminal import printable
from rushes.errors import LeaseLost, QueueUnavailable, WireError, WorkerUnfit
from rushes.wire.jobs import SampleJob
from rushes.wire.results import JobError, JobState, SampleResult
from rushes_service.queue import Queue, Reservation
from rushes_service.runtime.per_process import called
from rushes_service.scores.registry import Score
from rushes_service.settings import Settings
from rushes_service.storage.path_map import PathMap
from rushes_service.storage.staged import StagedFiles
from rushes_service.worker.attempt import Attempt, Outcome, WorkerContext
from rushes_service.worker.background import Background
from rushes_service.worker.lease import Shutdown
from rushes_service.worker.sample import SAME_PATHS, Sampler
from rushes_service.worker.scoring import Scorer

logger = logging.getLogger("rushes.worker")

ANNOUNCE_EVERY_S = 2.0
IDLE_WAIT_S = 1.0
SCORES_S = 5.0
"""How long a worker that was asked to stop may still score finished samples."""

INTERRUPT_EVERY_S = 1.0
"""Between the ends that a load is asked for: the first may come at a moment that swallows it."""

FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 10.0
"""Bounds of the pause between two attempts to reach Redis, in seconds."""


def worker_name(device: str) -> str:
    """A unique worker name: host, device, process id and four random hex digits."""
    return f"{socket.gethostname()}-{device.replace(':', '')}-{os.getpid()}-{secrets.token_hex(2)}"


class Worker:
    """Makes samples until it is asked to stop.

    Args:
        queue: named after this worker.
        engine: keeps the base model loaded between samples.
        settings: lease, grace, attempts.
        until_empty: end when the queue is empty.
        paths: maps submitters' directories to this machine's.
        scores: of finished samples, by name.
    """

    def __init__(
        self,
        queue: Queue,
        engine: Sampler,
        settings: Settings,
        *,
        until_empty: bool = False,
        paths: PathMap = SAME_PATHS,
        scores: Mapping[str, Score] | None = None,
    ) -> None:
        self.queue = queue
        self.engine = engine
        self.settings = settings
        self.until_empty = until_empty
        self.paths = paths
        self.staged = StagedFiles(settings.cache_dir, settings.staged_bytes)
        self.shutdown = Shutdown(settings.grace_s)
        self.scorer = Scorer(queue, scores or {}, paths)
        self._background = Background()
        self._announced = 0.0
        self._order: str | None = None
        self._label = ""
        self._lane_models: dict[str, str] = {}
        """Model fingerprint with this machine's paths -> fingerprint that the lane is named by."""
        self._pause_s = FIRST_PAUSE_S

    def run(self) -> None:
        """Make samples until asked to stop.

        Raises:
            WorkerUnfit: this process must end; its sample is left for another worker.
        """
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: self._stop_asked())
        signal.signal(signal.SIGALRM, lambda *_: self.shutdown.interrupt_load())
        logger.info("ready on %s", called(self.engine.device))
        try:
            self._work()
        except WorkerUnfit:
            raise  # the thread in the background may wait for a device that never answers
        except BaseException:
            self._background.wait()
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._background.wait()
        self.scorer.close(SCORES_S if self.shutdown.asked.is_set() else None)
        self._persist(self.queue.leave, "leaving")

    def _stop_asked(self) -> None:
        """Stop after the current sample, or when its time is over; a load hears that, too."""
        self.shutdown.ask()
        signal.setitimer(signal.ITIMER_REAL, max(self.shutdown.left_s, 0.01), INTERRUPT_EVERY_S)

    def _work(self) -> None:
        """Make one sample after another."""
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
        """True if `until_empty` was given and the queue is empty."""
        if not self.until_empty:
            return False
        # A sample that is being finished may still fail and be queued again.
        self._background.wait()
        return not self.queue.retries_waiting()

    def _turn(self) -> bool:
        """Make one sample, or wait a moment for one; False if there was none."""
        self._background.check()
        self.engine.relieve()
        if not self._background.busy:
            self._announce("paused" if self._order == "pause" else "idle")
        if self._order is not None:
            self.shutdown.asked.wait(IDLE_WAIT_S)
            return False
        reservation = self.queue.reserve(self._warm_model(), wait_s=IDLE_WAIT_S)
        if reservation is None:
            return False
        job = self._job_of(reservation)
        if job is not None:
            self._serve(reservation, job)
        return True

    def _warm_model(self) -> str | None:
        """Fingerprint of the loaded model with the submitter's paths, as lanes are named."""
        loaded = self.engine.loaded_model
        return self._lane_models.get(loaded, loaded) if loaded else None

    def _job_of(self, reservation: Reservation) -> SampleJob | None:
        """The job of a reservation; None, reported to the queue, if it is not to be made."""
        job, report = self._decode(reservation)
        if report is None:
            return job
        self._persist(report, f"the end of sample {reservation.id}")
        return None

    def _decode(self, reservation: Reservation) -> tuple[SampleJob | None, Callable[[], None] | None]:
        """The job of a reservation, and how to report it to the queue if it is not to be made."""
        if reservation.deliveries > self.settings.max_deliveries:
            logger.error(
                "sample %s is set aside: %d workers did not survive it", reservation.id, reservation.deliveries - 1
            )
            reason = (
                f"{reservation.deliveries - 1} workers did not survive this sample; `rushes jobs retry` tries it again"
            )
            return None, lambda: self.queue.bury(reservation, reason)
        try:
            job = reservation.job()
        except WireError as error:
            logger.error("sample %s is set aside: %s", reservation.id, error)
            unreadable = str(error)
            return None, lambda: self.queue.bury(reservation, unreadable)
        newer = reservation.superseded_by
        if newer is not None:
            logger.info("step %d, prompt %d: superseded by step %d", job.step, job.prompt_index, newer)
            return None, lambda: self.queue.finish(reservation, JobState.SUPERSEDED, superseded(job, newer))
        return job, None

    def _serve(self, reservation: Reservation, job: SampleJob) -> None:
        """Attempt one sample. Decoding and writing go on in the background if settings and engine allow."""
        logger.info("step %d, prompt %d: %s", job.step, job.prompt_index, printable(job.prompt.prompt[:60]))
        self._label = job.model.label
        local = self.paths.job_to_local(job).model.fingerprint
        self._lane_models[local] = job.model.fingerprint
        context = WorkerContext(
            self.queue, self.engine, self.settings, self.paths, self.staged, self.shutdown, self.scorer
        )
        attempt = Attempt(context, reservation, job, lambda info: self._announce("sampling", info))
        # A device holds one base model: wait for the sample in the background before another is loaded. Decoding a clip
        # takes time, so the lease is renewed meanwhile.
        attempt.hold(self._background.wait if local != self.engine.loaded_model else self._background.check)
        ended = attempt.denoise()
        if ended is not None:
            self._end(attempt, ended)
        elif self.settings.overlap and attempt.overlaps:
            self._background.wait()
            attempt.hand_over()
            self._background.start(lambda: self._end(attempt, attempt.finish()))
        else:
            self._background.wait()
            self._end(attempt, attempt.finish())

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Log and report how a sample ended."""
        job = attempt.job
        logger.log(outcome.level, "step %d, prompt %d: %s", job.step, job.prompt_index, outcome.message)
        self._persist(outcome.report, f"the end of sample {job.id}")

    def _persist(self, report: Callable[[], None], what: str) -> None:
        """Report to the queue, waiting while Redis is away: finished work must not be repeated."""
        while True:
            try:
                report()
                return
            except LeaseLost as error:
                logger.warning("%s is not reported: %s", what, error)
                return
            except QueueUnavailable as error:
                if self.shutdown.asked.is_set():
                    logger.warning("%s is not reported, the worker is shutting down: %s", what, error)
                    return
                logger.warning("%s cannot be reported yet: %s", what, error)
                self.shutdown.asked.wait(self._pause_s)
                self._pause_s = min(self._pause_s * 2, LAST_PAUSE_S)

    def _announce(self, state: str, more: dict[str, str] | None = None) -> None:
        """Announce this worker's activity every few seconds at most, and receive its orders."""
        if time.monotonic() < self._announced + ANNOUNCE_EVERY_S:
            return
        self._announced = time.monotonic()
        model = {"model": self._warm_model() or "", "label": self._label}
        memory = {name: str(count) for name, count in self.engine.memory.items()}
        facts = {"state": state, "device": called(self.engine.device)}
        self._order = self.queue.announce({**facts, **memory, **model, **(more or {})})
        if self._order == "drain":
            self.shutdown.drain()


def superseded(job: SampleJob, newer_step: int) -> SampleResult:
    """The result of a sample that is skipped because a newer checkpoint waits."""
    error = JobError(code="superseded", message=f"step {newer_step} was submitted before this one was sampled")
    return SampleResult.of(job, JobState.SUPERSEDED, error=error)
