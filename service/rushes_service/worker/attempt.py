"""One attempt at a sample, in two halves that may run in two threads, and its outcome for the queue."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rushes.errors import (
    LeaseLost,
    OutputError,
    QueueUnavailable,
    RushesError,
    SampleCancelled,
    SampleHandedBack,
    WorkerUnfit,
)
from rushes.wire.jobs import SampleJob
from rushes.wire.results import JobError, JobState, SampleResult
from rushes_service.media.output import prepare_output
from rushes_service.queue import Queue, Reservation
from rushes_service.settings import Settings
from rushes_service.storage.path_map import PathMap
from rushes_service.storage.staged import StagedFiles
from rushes_service.worker.ahead import waiting_for
from rushes_service.worker.drift import DRIFTED
from rushes_service.worker.lease import Lease, Progress, Shutdown
from rushes_service.worker.retry import StoreRetry
from rushes_service.worker.sample import DenoisedSample, Sampler, write_sample
from rushes_service.worker.scoring import Scorer
from rushes_service.worker.workspace import Workspace, open_workspace

logger = logging.getLogger("rushes.worker")

Announce = Callable[[dict[str, str]], None]


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: `report` tells the queue, `message` goes to the log."""

    report: Callable[[], None]
    message: str
    level: int = logging.INFO


@dataclass(frozen=True)
class WorkerContext:
    """Everything an attempt needs from its worker."""

    queue: Queue
    engine: Sampler
    settings: Settings
    paths: PathMap
    staged: StagedFiles
    shutdown: Shutdown
    scorer: Scorer | None = None


class Attempt:
    """An attempt, from reservation to outcome. The lease is held from `hold` until there is an outcome.

    Args:
        announce: called at every heartbeat with the worker's current activity.
    """

    def __init__(self, context: WorkerContext, reservation: Reservation, job: SampleJob, announce: Announce) -> None:
        self.reservation = reservation
        self.job = job
        self._context = context
        self._began = time.monotonic()
        self._lease = Lease(
            context.queue,
            reservation,
            job.run,
            heartbeat_s=context.settings.heartbeat_s,
            shutdown=context.shutdown,
            beat=lambda progress: announce(sampling_info(job, progress, self._began)),
        )
        self._holding = contextlib.ExitStack()
        self._workspace: Workspace | None = None
        self._denoised: DenoisedSample | None = None

    def hold(self, until: Callable[[], None]) -> None:
        """Take the lease and call `until`, renewing meanwhile; gives the lease up if `until` raises."""
        self._holding.enter_context(self._lease)
        try:
            until()
        except BaseException:
            self._holding.close()
            raise

    def denoise(self) -> Outcome | None:
        """Make the latents, after `hold`; returns an outcome if the sample ended here.

        Raises:
            WorkerUnfit, QueueUnavailable: the sample is left for another worker.
        """
        try:
            if self.reservation.cancelling:
                raise SampleCancelled("cancelled while it was running")
            if self._context.shutdown.asked.is_set():  # reserved while the worker was already shutting down
                raise SampleHandedBack("the worker is shutting down")
            retry = StoreRetry(self._lease, self._context.settings.staging_patience_s)
            workspace = open_workspace(self.job, self._context.paths, self._context.staged, retry)
            self._workspace = self._holding.enter_context(workspace)
            prepare_output(Path(self._workspace.job.output_dir), self.job.output_dir)
            self._denoised = self._context.engine.denoise(self._workspace.job, self._lease, self._waiting)
        except Exception as error:  # noqa: BLE001  # _outcome_of tells the kinds apart
            self._holding.close()
            return self._outcome_of(error)
        return None

    def _waiting(self) -> Sequence[SampleJob]:
        """Samples of the same model that come later."""
        return waiting_for(self.job.model.fingerprint, self._context.queue, self._context.paths)

    @property
    def overlaps(self) -> bool:
        """True if `finish` may run beside the next sample, after `hand_over`."""
        return self._denoised is not None and self._denoised.overlaps

    def hand_over(self) -> None:
        """Say that another thread will call `finish`, before that thread begins."""
        if self._denoised is not None:
            self._denoised.hand_over()

    def finish(self) -> Outcome:
        """Decode the latents and write the files; raises as `denoise` does."""
        if self._denoised is None or self._workspace is None:
            raise RuntimeError("finish() goes after a denoise() that returned None")
        try:
            with self._holding:
                worker = self._context.queue.worker
                result = write_sample(self._denoised, self.job, self._workspace, self._lease, worker, self._began)
        except Exception as error:  # noqa: BLE001  # _outcome_of tells the kinds apart
            return self._outcome_of(error)
        return Outcome(
            functools.partial(self._report_done, result),
            f"{result.path} ({result.seconds:.1f} s)",
        )

    def _report_done(self, result: SampleResult) -> None:
        """End the sample, and publish an event if it is a control beyond its limit."""
        self._context.queue.finish(self.reservation, JobState.DONE, result)
        if self._context.scorer is not None:
            self._context.scorer.submit(result)
        if DRIFTED in result.health and result.drift is not None:
            facts = {"step": result.step, "limit": result.prompt.drift_limit, **result.drift.model_dump()}
            self._context.queue.publish(DRIFTED, result.id, result.run, facts)

    def _outcome_of(self, error: Exception) -> Outcome:
        """The outcome that an exception means for the sample; re-raises those that concern the worker."""
        if isinstance(error, (WorkerUnfit, QueueUnavailable)):
            raise error
        if isinstance(error, LeaseLost):
            return Outcome(lambda: None, f"discarded: {error}", logging.WARNING)
        if isinstance(error, SampleHandedBack):
            return Outcome(
                lambda: self._context.queue.hand_back(self.reservation, self.job.run), f"handed back: {error}"
            )
        if isinstance(error, SampleCancelled):
            return self._ended(JobState.CANCELLED, error)
        if isinstance(error, OSError):
            return self._failed(OutputError(f"the result could not be written: {error}"))
        if not isinstance(error, RushesError):
            logger.error("sample %s failed with an unexpected error", self.reservation.id, exc_info=error)
        return self._failed(error)

    def _failed(self, error: Exception) -> Outcome:
        """A retry if the error is retryable and attempts are left, else the failure."""
        settings = self._context.settings
        if not getattr(error, "retryable", False) or self.reservation.attempt + 1 >= settings.max_attempts:
            return self._ended(JobState.FAILED, error)
        delay_s = settings.retry_delay_s * 2**self.reservation.attempt
        reason = error_of(error)
        return Outcome(
            lambda: self._context.queue.retry_later(self.reservation, self.job.run, reason, delay_s),
            f"{error}; trying again in {delay_s:g} s",
            logging.WARNING,
        )

    def _ended(self, state: JobState, error: Exception) -> Outcome:
        seconds = round(time.monotonic() - self._began, 3)
        worker = self._context.queue.worker
        result = SampleResult.of(self.job, state, error=error_of(error), worker=worker, seconds=seconds)
        level = logging.INFO if state is JobState.CANCELLED else logging.ERROR
        return Outcome(
            lambda: self._context.queue.finish(self.reservation, state, result), f"{state.value}: {error}", level
        )


def sampling_info(job: SampleJob, progress: Progress, began: float) -> dict[str, str]:
    """A worker's announcement of the sample it makes; `began` is on the monotonic clock."""
    return {
        "sample": job.id,
        "run": job.run,
        "stage": progress.stage,
        "step": str(progress.step),
        "total": str(progress.total),
        "rate": f"{progress.rate:.2f}" if progress.stage == "denoise" else "",
        "busy_s": f"{time.monotonic() - began:.0f}",
    }


def error_of(error: Exception) -> JobError:
    """An error for the record: code, message, and whether a retry could help."""
    if isinstance(error, RushesError):
        return JobError(code=error.code, message=str(error), retryable=error.retryable)
    return JobError(code="internal", message=f"{type(error).__name__}: {error}")
