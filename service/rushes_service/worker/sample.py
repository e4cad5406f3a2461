"""One sample from job to file: engine, frames, media file, receipt."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rushes.families.parameters import SampleParameters
from rushes.wire.jobs import SampleJob
from rushes.wire.results import Drift, JobState, SampleResult
from rushes_service.media.naming import sample_path
from rushes_service.media.receipts import noise_origin
from rushes_service.media.writing import write_media
from rushes_service.queue import Reservation
from rushes_service.storage.path_map import PathMap
from rushes_service.worker.drift import DriftMeter
from rushes_service.worker.lease import Lease
from rushes_service.worker.workspace import Workspace

SAME_PATHS = PathMap()

Waiting = Callable[[], Sequence[SampleJob]]
"""Samples that wait for the same model, with files under this machine's paths. Asks the queue, and never raises."""


class DenoisedSample(Protocol):
    """One denoised sample, whose frames (uint8 [H, W, 3]) are decoded as they are asked for."""

    @property
    def parameters(self) -> SampleParameters:
        """Parameters of the sample after defaults and rounding."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the result and the receipt."""
        ...

    @property
    def overlaps(self) -> bool:
        """True if it may be decoded while the next one is denoised."""
        ...

    def hand_over(self) -> None:
        """Say that another thread will decode it, before that thread begins."""
        ...

    def frames(self) -> Generator[np.ndarray, None, None]:
        """The frames, one at a time."""
        ...

    def latent_values(self) -> np.ndarray | None:
        """The final latents on the CPU, float32; None if it has none."""
        ...

    def facts(self) -> dict[str, Any]:
        """Facts for the receipt; complete once all frames have been taken."""
        ...


class Sampler(Protocol):
    """The engine as a worker sees it: `engine.Engine`, or `DryRunEngine`, which needs no model."""

    @property
    def device(self) -> object:
        """The device that it computes on."""
        ...

    @property
    def loaded_model(self) -> str | None:
        """Fingerprint of the `ModelSpec` that is loaded."""
        ...

    @property
    def memory(self) -> Mapping[str, int]:
        """Bytes by name: `memory` held on the device, and other measurements; announced under these names."""
        ...

    def relieve(self) -> None:
        """Give back what is kept in host memory for later samples, if that is short."""
        ...

    def denoise(self, job: SampleJob, watch: Lease, waiting: Waiting) -> DenoisedSample:
        """Make the latents of a job, reporting each step to `watch`; `waiting` are those that will be made later."""
        ...


def write_sample(
    denoised: DenoisedSample, job: SampleJob, workspace: Workspace, lease: Lease, worker: str, began: float
) -> SampleResult:
    """Decode `denoised` and write the media file of `job` and its receipt; named in the submitter's paths.

    Args:
        began: start of the sample on the monotonic clock, in seconds.

    Raises:
        SampleError: it cannot be made.
        StagingError: it cannot be uploaded.
        SampleStopped: the sample was cancelled, lost or handed back.
        WorkerUnfit: the process must end.
    """
    meter = DriftMeter(job, workspace, denoised.parameters, denoised.latent_values)
    drift = functools.cache(meter.drift)  # measured once, when the last frame has passed
    # Closed here, in the thread that takes them: the decode holds locks of this thread while it is suspended.
    with contextlib.closing(denoised.frames()) as frames:
        written = write_media(
            meter.watch(frames),
            sample_path(workspace.job, denoised.parameters),
            job_id=job.id,
            frame_count=denoised.parameters.frame_count,
            fps=denoised.parameters.fps,
            receipt=lambda: receipt(job, denoised, lease.held, worker, workspace, drift()),
            guard=lease.guard,
            more_flags=lambda: meter.flags(drift()),
        )
    meter.keep()
    path, receipt_file = workspace.publish(written, lease.guard)
    return SampleResult.of(
        job,
        JobState.DONE,
        path=path,
        receipt=receipt_file,
        media_type="image/png" if denoised.parameters.frame_count == 1 else "video/mp4",
        width=written.width,  # of the file: layers lie below each other in it
        height=written.height,
        frame_count=denoised.parameters.frame_count,
        fps=denoised.parameters.fps,
        seed=denoised.parameters.seed,
        warnings=denoised.warnings,
        health=written.health,
        drift=drift(),
        worker=worker,
        seconds=round(time.monotonic() - began, 3),
        noise=noise_origin(denoised.facts()),
    )


def receipt(
    job: SampleJob,
    denoised: DenoisedSample,
    reservation: Reservation,
    worker: str,
    workspace: Workspace,
    drift: Drift | None,
) -> dict[str, Any]:
    """The receipt: everything that is needed to make this sample again."""
    return {
        "rushes": "receipt/1",
        "id": job.id,
        "run": job.run,
        "submission": job.submission,
        "step": job.step,
        "epoch": job.epoch,
        "prompt_index": job.prompt_index,
        "asked": job.prompt.model_dump(mode="json", exclude_none=True),
        "parameters": denoised.parameters.model_dump(mode="json"),
        "checkpoint": job.checkpoint.model_dump(mode="json") if job.checkpoint else None,
        "warnings": list(denoised.warnings),
        "submitted_at": job.submitted_at,
        "attempt": reservation.attempt + 1,
        "worker": worker,
        **({"drift": drift.model_dump(mode="json")} if drift else {}),
        **workspace.facts_to_remote(denoised.facts()),
    }
