"""The dry-run engine: needs no model, GPU or torch, and paints gradients instead of sampling.

Everything around it is real: queue, lease, cancelling, files, receipts. `rushes worker --dry-run` tests a
deployment (can every machine reach Redis? are the directories mounted and writable?); the fleet simulation
runs hundreds of workers with it.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rushes.families.drafts import check_draft
from rushes.families.parameters import SampleParameters, resolve
from rushes.families.table import architecture
from rushes.wire.jobs import SampleJob
from rushes_service.worker.lease import Lease


@dataclass(frozen=True)
class PaintedSample:
    """A colour gradient that depends on seed and training step, moving over the frames."""

    parameters: SampleParameters
    step: int
    warnings: tuple[str, ...] = ("painted by a dry run: no model was used",)
    overlaps: bool = True
    draft: float | None = None

    def hand_over(self) -> None:
        """Nothing is shared with the next sample."""

    def frames(self) -> Generator[np.ndarray, None, None]:
        """Frames, uint8 [H, W, 3]; deterministic for a job."""
        height, width = self.parameters.height, self.parameters.width
        random = np.random.default_rng([self.parameters.seed, self.step])
        corners = random.integers(32, 224, size=(2, 3))
        ramp = np.linspace(0, 1, width)[None, :, None]
        for frame in range(self.parameters.frame_count):
            moved = np.roll(ramp, frame * 4, axis=1)
            row = corners[0] * (1 - moved) + corners[1] * moved
            yield np.broadcast_to(row, (height, width, 3)).astype(np.uint8)

    def latent_values(self) -> None:
        """None: nothing was denoised."""
        return

    def facts(self) -> dict[str, Any]:
        """Marks the receipt as a dry run."""
        return {"engine": "dry run", **({} if self.draft is None else {"draft": {"threshold": self.draft}})}


class DryRunEngine:
    """Paints jobs, taking `step_s` seconds a step.

    Args:
        load_s: pretended load time of a model, in seconds.
    """

    def __init__(self, step_s: float = 0.02, load_s: float = 0.0) -> None:
        self.device = "dry-run"
        self.loaded_model: str | None = None
        self.memory = {"memory": 0}
        self._step_s = step_s
        self._load_s = load_s

    def relieve(self) -> None:
        """Nothing is kept."""

    def denoise(self, job: SampleJob, watch: Lease, _waiting: object = None) -> PaintedSample:
        """Sleep through the steps of a sample."""
        parameters, _ = resolve(job.prompt, architecture(job.model.architecture))
        if job.draft is not None:
            check_draft(job.model.architecture)
        if self.loaded_model != job.model.fingerprint:
            watch.stage("load")
            time.sleep(self._load_s)
            self.loaded_model = job.model.fingerprint
        watch.stage("denoise", parameters.sample_steps)
        for done in range(1, parameters.sample_steps + 1):
            time.sleep(self._step_s)
            watch.step(done, parameters.sample_steps)
        return PaintedSample(parameters, job.step, draft=job.draft)
