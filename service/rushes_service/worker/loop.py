"""The worker's loop: reserve a sample, make it, end it. A sample that fails is not a worker that fails."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from rushes.errors import (
    LeaseLost,
    OutputError,
    QueueUnavailable,
    RushesError,
    SampleCancelled,
    SampleHandedBack,
    WireError,
    WorkerUnfit,
)
from rushes.jobs import JobError, JobState, SampleJob, SampleResult
from rushes_service.queue import Queue, Reservation
from rushes_service.settings import Settings
from rushes_service.worker.lease import Lease, Progress, Shutdown
from rushes_service.worker.paths import PathMap
from rushes_service.worker.sample import SAME_PATHS, Sampler, make_sample

logger = logging.getLogger("rushes.worker")

ANNOUNCE_EVERY_S = 2.0
IDLE_WAIT_S = 1.0
FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 10.0
"""Bounds of the wait between two tries to reach Redis."""


def worker_name(device: str) -> str:
    """A name that no other worker has: host, device, process, and four random digits."""
    return f"{socket.gethostname()}-{device.replace(':', '')}-{os.getpid()}-{secrets.token_hex(2)}"


@dataclass(frozen=True)
class Outcome:
    """How a try ended, and what is to be told to the queue about it."""

    told: Callable[[], None]
    said: str
    level: int = logging.INFO


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
        self.shutdown = Shutdown(settings.grace_s)
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
        while not self.shutdown.asked.is_set():
            try:
                if not self._turn() and self.until_empty and not self.queue.retries_waiting():
                    break
                self._pause_s = FIRST_PAUSE_S
            except QueueUnavailable as error:
                logger.warning("%s; trying again in %.1f s", error, self._pause_s)
                self.shutdown.asked.wait(self._pause_s)
                self._pause_s = min(self._pause_s * 2, LAST_PAUSE_S)
        self._persist(self.queue.leave, "leaving")

    def _turn(self) -> bool:
        """Make one sample, or wait a moment for one; False when there was none."""
        self._announce("paused" if self._order == "pause" else "idle")
        if self._order is not None:
            self.shutdown.asked.wait(IDLE_WAIT_S)
            return False
        held = self.queue.reserve(self._warm_model(), wait_s=IDLE_WAIT_S)
        if held is None:
            return False
        self._persist(self._serve(held), f"the end of sample {held.id}")
        return True

    def _warm_model(self) -> str | None:
        """Fingerprint of the loaded model in the words of those who submit."""
        loaded = self.engine.warm_model
        return self._lane_models.get(loaded, loaded) if loaded else None

    def _serve(self, held: Reservation) -> Callable[[], None]:
        """Try one sample; returns what is to be told to the queue."""
        if held.deliveries > self.settings.max_deliveries:
            logger.error("sample %s is set aside: %d workers did not survive it", held.id, held.deliveries - 1)
            reason = f"{held.deliveries - 1} workers did not survive this sample; `rushes jobs retry` tries it again"
            return lambda: self.queue.bury(held, reason)
        try:
            job = held.job()
        except WireError as error:
            logger.error("sample %s is set aside: %s", held.id, error)
            unreadable = str(error)
            return lambda: self.queue.bury(held, unreadable)
        if held.superseded_by is not None:
            logger.info("step %d, prompt %d: superseded by step %d", job.step, job.prompt_index, held.superseded_by)
            return lambda: self.queue.finish(held, JobState.SUPERSEDED, superseded(job, held.superseded_by))
        logger.info("step %d, prompt %d: %s", job.step, job.prompt_index, job.prompt.prompt[:60])
        outcome = self._try(held, job)
        logger.log(outcome.level, "step %d, prompt %d: %s", job.step, job.prompt_index, outcome.said)
        return outcome.told

    def _try(self, held: Reservation, job: SampleJob) -> Outcome:
        began = time.monotonic()
        self._label = job.model.label
        self._lane_models[self.paths.job_here(job).model.fingerprint] = job.model.fingerprint
        lease = Lease(
            self.queue,
            held,
            job.run,
            heartbeat_s=self.settings.heartbeat_s,
            shutdown=self.shutdown,
            beat=lambda progress: self._announce("sampling", sampling_info(job, progress, began)),
        )
        try:
            if held.cancelling:
                raise SampleCancelled("cancelled while it was running")
            if self.shutdown.asked.is_set():  # it came while this worker was already on its way out
                raise SampleHandedBack("the worker is shutting down")
            with lease:
                result = make_sample(self.engine, job, lease, self.queue.worker, self.paths)
            return Outcome(
                lambda: self.queue.finish(held, JobState.DONE, result), f"{result.path} ({result.seconds:.1f} s)"
            )
        except LeaseLost as error:
            return Outcome(lambda: None, f"discarded: {error}", logging.WARNING)
        except SampleHandedBack as error:
            return Outcome(lambda: self.queue.hand_back(held, job.run), f"handed back: {error}")
        except SampleCancelled as error:
            return self._ended(held, job, JobState.CANCELLED, error, began)
        except (WorkerUnfit, QueueUnavailable):
            raise
        except OSError as error:
            return self._failed(held, job, OutputError(f"the result could not be written: {error}"), began)
        except RushesError as error:
            return self._failed(held, job, error, began)
        except Exception as error:
            logger.exception("sample %s failed in a way that Rushes did not foresee", held.id)
            return self._failed(held, job, error, began)

    def _failed(self, held: Reservation, job: SampleJob, error: Exception, began: float) -> Outcome:
        """Another attempt if it can help and one is left, else the end of the sample."""
        if not getattr(error, "retryable", False) or held.attempt + 1 >= self.settings.max_attempts:
            return self._ended(held, job, JobState.FAILED, error, began)
        delay_s = self.settings.retry_delay_s * 2**held.attempt
        return Outcome(
            lambda: self.queue.retry_later(held, job.run, described(error), delay_s),
            f"{error}; trying again in {delay_s:g} s",
            logging.WARNING,
        )

    def _ended(self, held: Reservation, job: SampleJob, state: JobState, error: Exception, began: float) -> Outcome:
        seconds = round(time.monotonic() - began, 3)
        result = SampleResult.of(job, state, error=described(error), worker=self.queue.worker, seconds=seconds)
        level = logging.INFO if state is JobState.CANCELLED else logging.ERROR
        return Outcome(lambda: self.queue.finish(held, state, result), f"{state.value}: {error}", level)

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
        model = {"model": self._warm_model() or "", "label": self._label}
        facts = {"state": state, "device": str(self.engine.device), "memory": str(self.engine.memory_bytes)}
        self._order = self.queue.announce({**facts, **model, **(more or {})})
        if self._order == "drain":
            self.shutdown.drain()


def sampling_info(job: SampleJob, progress: Progress, began: float) -> dict[str, str]:
    """What a worker says about the sample it makes; `began` is by the monotonic clock."""
    return {
        "sample": job.id,
        "run": job.run,
        "stage": progress.stage,
        "step": str(progress.step),
        "total": str(progress.total),
        "rate": f"{progress.rate:.2f}" if progress.stage == "denoise" else "",
        "busy_s": f"{time.monotonic() - began:.0f}",
    }


def superseded(job: SampleJob, newer_step: int) -> SampleResult:
    """The result of a sample that is not made because a newer checkpoint waits."""
    error = JobError(code="superseded", message=f"step {newer_step} was submitted before this one was sampled")
    return SampleResult.of(job, JobState.SUPERSEDED, error=error)


def described(error: Exception) -> JobError:
    """An error for the record: code, message, and whether another try could help."""
    if isinstance(error, RushesError):
        return JobError(code=error.code, message=str(error), retryable=error.retryable)
    return JobError(code="internal", message=f"{type(error).__name__}: {error}")
