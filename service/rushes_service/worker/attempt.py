"""One try at one sample, in two halves that may run in two threads, and what is to be told about its end."""

from __future__ import annotations

import contextlib
import logging
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
    WorkerUnfit,
)
from rushes.wire.jobs import JobError, JobState, SampleJob, SampleResult
from rushes_service.queue import Queue, Reservation
from rushes_service.settings import Settings
from rushes_service.storage.staged import StagedFiles
from rushes_service.worker.lease import Lease, Progress, Shutdown
from rushes_service.worker.path_map import PathMap
from rushes_service.worker.retry import StoreRetry
from rushes_service.worker.sample import DenoisedSample, Sampler, write_sample
from rushes_service.worker.workspace import Workspace, workplace

logger = logging.getLogger("rushes.worker")

Announce = Callable[[dict[str, str]], None]


@dataclass(frozen=True)
class Outcome:
    """How a try ended, and what is to be told to the queue about it."""

    told: Callable[[], None]
    said: str
    level: int = logging.INFO


@dataclass(frozen=True)
class WorkerContext:
    """What a worker makes samples with."""

    queue: Queue
    engine: Sampler
    settings: Settings
    paths: PathMap
    staged: StagedFiles
    shutdown: Shutdown


class Attempt:
    """A try, from reservation to outcome. The lease is held from `hold` until there is an outcome.

    Args:
        announce: called now and then with what is being done.
    """

    def __init__(self, means: WorkerContext, held: Reservation, job: SampleJob, announce: Announce) -> None:
        self.held = held
        self.job = job
        self._means = means
        self._began = time.monotonic()
        self._lease = Lease(
            means.queue,
            held,
            job.run,
            heartbeat_s=means.settings.heartbeat_s,
            shutdown=means.shutdown,
            beat=lambda progress: announce(sampling_info(job, progress, self._began)),
        )
        self._holding = contextlib.ExitStack()
        self._place: Workspace | None = None
        self._denoised: DenoisedSample | None = None

    def hold(self, until: Callable[[], None]) -> None:
        """Take the lease, and keep it while `until` returns; raises what that raises, without the lease."""
        self._holding.enter_context(self._lease)
        try:
            until()
        except BaseException:
            self._holding.close()
            raise

    def denoise(self) -> Outcome | None:
        """Make the latents, after `hold`; an outcome if that ended the sample.

        Raises:
            WorkerUnfit, QueueUnavailable: the sample is left for another worker.
        """
        try:
            if self.held.cancelling:
                raise SampleCancelled("cancelled while it was running")
            if self._means.shutdown.asked.is_set():  # it came while this worker was already on its way out
                raise SampleHandedBack("the worker is shutting down")
            patient = StoreRetry(self._lease, self._means.settings.staging_patience_s)
            place = workplace(self.job, self._means.paths, self._means.staged, patient)
            self._place = self._holding.enter_context(place)
            self._denoised = self._means.engine.denoise(self._place.job, self._lease)
        except Exception as error:  # noqa: BLE001  # each kind means something, see there
            self._holding.close()
            return self._outcome_of(error)
        return None

    def finish(self) -> Outcome:
        """Decode what was denoised, and write it; raises as `denoise`."""
        if self._denoised is None or self._place is None:
            raise RuntimeError("finish() goes after a denoise() that returned None")
        try:
            with self._holding:
                worker = self._means.queue.worker
                result = write_sample(self._denoised, self.job, self._place, self._lease, worker, self._began)
        except Exception as error:  # noqa: BLE001  # each kind means something, see there
            return self._outcome_of(error)
        return Outcome(
            lambda: self._means.queue.finish(self.held, JobState.DONE, result),
            f"{result.path} ({result.seconds:.1f} s)",
        )

    def _outcome_of(self, error: Exception) -> Outcome:
        """What an exception means for the sample; raises those that are not about the sample."""
        if isinstance(error, (WorkerUnfit, QueueUnavailable)):
            raise error
        if isinstance(error, LeaseLost):
            return Outcome(lambda: None, f"discarded: {error}", logging.WARNING)
        if isinstance(error, SampleHandedBack):
            return Outcome(lambda: self._means.queue.hand_back(self.held, self.job.run), f"handed back: {error}")
        if isinstance(error, SampleCancelled):
            return self._ended(JobState.CANCELLED, error)
        if isinstance(error, OSError):
            return self._failed(OutputError(f"the result could not be written: {error}"))
        if not isinstance(error, RushesError):
            logger.error("sample %s failed in a way that Rushes did not foresee", self.held.id, exc_info=error)
        return self._failed(error)

    def _failed(self, error: Exception) -> Outcome:
        """Another attempt if it can help and one is left, else the end of the sample."""
        settings = self._means.settings
        if not getattr(error, "retryable", False) or self.held.attempt + 1 >= settings.max_attempts:
            return self._ended(JobState.FAILED, error)
        delay_s = settings.retry_delay_s * 2**self.held.attempt
        reason = described(error)
        return Outcome(
            lambda: self._means.queue.retry_later(self.held, self.job.run, reason, delay_s),
            f"{error}; trying again in {delay_s:g} s",
            logging.WARNING,
        )

    def _ended(self, state: JobState, error: Exception) -> Outcome:
        seconds = round(time.monotonic() - self._began, 3)
        worker = self._means.queue.worker
        result = SampleResult.of(self.job, state, error=described(error), worker=worker, seconds=seconds)
        level = logging.INFO if state is JobState.CANCELLED else logging.ERROR
        return Outcome(lambda: self._means.queue.finish(self.held, state, result), f"{state.value}: {error}", level)


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


def described(error: Exception) -> JobError:
    """An error for the record: code, message, and whether another try could help."""
    if isinstance(error, RushesError):
        return JobError(code=error.code, message=str(error), retryable=error.retryable)
    return JobError(code="internal", message=f"{type(error).__name__}: {error}")
