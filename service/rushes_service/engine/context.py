"""One sample on its way through the stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rushes.families.parameters import SampleParameters
from rushes.wire.jobs import SampleJob
from rushes_service.engine.fallback_memory import StageAttempt
from rushes_service.engine.progress import ProgressCallback, Stopwatch
from rushes_service.lora.manager import RequestedLora
from rushes_service.runtime.device_memory import PeakMeter

Waiting = Callable[[], Sequence[SampleJob]]
"""Samples that wait in the queue, in the order in which they will be made. Asks the queue, and never raises."""


def nothing_waits() -> Sequence[SampleJob]:
    """No other sample is known of."""
    return ()


@dataclass
class SampleContext:
    """A job, what it means here, and who follows it. `attempts` are those of the stages that were begun so far.

    `notes` are warnings about how it was denoised.
    """

    job: SampleJob
    parameters: SampleParameters
    requested: Sequence[RequestedLora]
    watch: ProgressCallback
    warnings: tuple[str, ...]
    peak: PeakMeter
    waiting: Waiting
    clock: Stopwatch = field(default_factory=Stopwatch)
    attempts: list[StageAttempt] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def model_shape(self) -> tuple[object, ...]:
        """What the memory for loading and merging depends on."""
        return (self.job.model.fingerprint,)

    @property
    def shape(self) -> tuple[object, ...]:
        """What the memory for the other stages depends on."""
        size = (self.parameters.width, self.parameters.height, self.parameters.frame_count)
        return (self.job.model.fingerprint, *size, self.job.vae)
