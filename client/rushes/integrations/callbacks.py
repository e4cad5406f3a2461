"""What the callbacks for Hugging Face's Trainer and for Lightning share: all but when they are called."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from rushes.integrations.adapter_files import save_adapter
from rushes.integrations.result_logger import log_exceptions
from rushes.trackers import Tracker
from rushes.training.sampler import TrainingSampler
from rushes.wire.results import SampleResult

logger = logging.getLogger("rushes")


class Sampling:
    """Samples the LoRA of a training whose loop calls back.

    Args:
        make: makes the sampler when training begins; called on the main process only.
        save: writes the model's LoRA to a path; else the adapter of PEFT or diffusers in it is found and written.
        trackers: where results are shown.
        wait_s: when training ends, how long to wait for samples, in seconds.
    """

    def __init__(
        self,
        make: Callable[[], TrainingSampler],
        *,
        save: Callable[[Any, str], object] = save_adapter,
        trackers: Sequence[Tracker] = (),
        wait_s: float = 0.0,
    ) -> None:
        self.make = make
        self.save = save
        self.trackers = trackers
        self.wait_s = wait_s
        self.sampler: TrainingSampler | None = None
        self._sampled = -1

    def _sample(self, step: int, model: Any, epoch: int | None = None) -> None:
        if self.sampler is None:
            return
        if step != self._sampled and self.sampler.due(step=step, epoch=epoch):
            self._sampled = step  # several batches, and the end of an epoch, may have the same step
            self.sampler.submit(step=step, epoch=epoch, weights=functools.partial(self.save, model))
        self._show(self.sampler.results())

    def _end(self, wait_s: float) -> None:
        """End the sampler; what is queued is still made."""
        if self.sampler is not None:
            self._show(self.sampler.close(wait=wait_s > 0, timeout=wait_s))
            for tracker in self.trackers:
                with log_exceptions("a tracker is not closed"):
                    tracker.close()
        self.sampler = None

    def _show(self, results: Sequence[SampleResult]) -> None:
        for result in results:
            logger.info("rushes: step %d: %s %s", result.step, result.state.value, result.path or "")
            for tracker in self.trackers:
                with log_exceptions(f"sample {result.id[:10]} is not shown"):
                    tracker.log(result)
