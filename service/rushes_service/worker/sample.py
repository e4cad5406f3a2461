"""One sample from job to file: engine, frames, media file, receipt."""

from __future__ import annotations

import time
from typing import Any

from rushes.jobs import JobState, SampleJob, SampleResult
from rushes_service.engine import Engine, Take
from rushes_service.media import sample_path, write_media
from rushes_service.queue import Reservation
from rushes_service.worker.lease import Lease


def make_sample(engine: Engine, job: SampleJob, lease: Lease, worker: str) -> SampleResult:
    """Make the media file of `job` and its receipt.

    Raises:
        InputError, SampleError: it cannot be made.
        SampleStopped: somebody ended it.
        WorkerUnfit: the process must not go on.
    """
    began = time.monotonic()
    take = engine.denoise(job, lease)
    written = write_media(
        take.frames(),
        sample_path(job, take.parameters),
        job_id=job.id,
        frame_count=take.parameters.frame_count,
        fps=take.parameters.fps,
        receipt=lambda: receipt(job, take, lease.held, worker),
        guard=lease.guard,
    )
    return SampleResult.of(
        job,
        JobState.DONE,
        path=str(written.path),
        receipt=str(written.receipt_path),
        media_type="image/png" if take.parameters.frame_count == 1 else "video/mp4",
        width=take.parameters.width,
        height=take.parameters.height,
        frame_count=take.parameters.frame_count,
        fps=take.parameters.fps,
        seed=take.parameters.seed,
        warnings=take.warnings,
        worker=worker,
        seconds=round(time.monotonic() - began, 3),
    )


def receipt(job: SampleJob, take: Take, held: Reservation, worker: str) -> dict[str, Any]:
    """Everything that was done to make this sample, so that it can be made again."""
    return {
        "rushes": "receipt/1",
        "id": job.id,
        "run": job.run,
        "submission": job.submission,
        "step": job.step,
        "epoch": job.epoch,
        "prompt_index": job.prompt_index,
        "asked": job.prompt.model_dump(mode="json", exclude_none=True),
        "parameters": take.parameters.model_dump(mode="json"),
        "checkpoint": job.checkpoint.model_dump(mode="json") if job.checkpoint else None,
        "warnings": list(take.warnings),
        "submitted_at": job.submitted_at,
        "attempt": held.attempt + 1,
        "worker": worker,
        **take.facts(),
    }
