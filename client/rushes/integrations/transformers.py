"""Hugging Face's Trainer: `Trainer(..., callbacks=[SamplingCallback(make_sampler)])`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rushes.integrations.adapter_files import save_adapter
from rushes.integrations.sinks import unstoppable
from rushes.jobs import SampleResult
from rushes.trackers import Tracker
from rushes.training import TrainingSampler

if TYPE_CHECKING:
    TrainerCallback = object
else:
    from transformers import TrainerCallback

logger = logging.getLogger("rushes")


class SamplingCallback(TrainerCallback):
    """Samples the LoRA that the Trainer trains.

    Args:
        make: makes the sampler when training begins; called on the main process only.
        save: writes the model's LoRA to a path; else the adapter of PEFT or diffusers is found and written.
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

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the sampler, and sample the base model if that is wanted."""
        if state.is_world_process_zero:
            self.sampler = self.make()
            self._sample(state, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sample after an optimizer step, if it is due."""
        self._sample(state, kwargs["model"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sample at the end of an epoch, if it is due."""
        self._sample(state, kwargs["model"], round(state.epoch or 0))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the sampler; what is queued is still made."""
        if self.sampler is not None:
            self._show(self.sampler.close(wait=self.wait_s > 0, timeout=self.wait_s))
            for tracker in self.trackers:
                tracker.close()
        self.sampler = None

    def _sample(self, state: Any, model: Any, epoch: int | None = None) -> None:
        if self.sampler is None:
            return
        step: int = state.global_step
        if step != self._sampled and self.sampler.due(step=step, epoch=epoch):
            self._sampled = step  # the end of an epoch asks again for its last step
            self.sampler.submit(step=step, epoch=epoch, weights=functools.partial(self.save, model))
        self._show(self.sampler.results())

    def _show(self, results: Sequence[SampleResult]) -> None:
        for result in results:
            logger.info("rushes: step %d: %s %s", result.step, result.state.value, result.path or "")
            for tracker in self.trackers:
                with unstoppable(f"sample {result.id[:10]} is not shown"):
                    tracker.log(result)
