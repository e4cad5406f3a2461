"""Lightning: `Trainer(callbacks=[SamplingCallback(make_sampler)])`, with `lightning` or `pytorch_lightning`."""

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
    Callback = object
else:
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError:
        from pytorch_lightning import Callback

logger = logging.getLogger("rushes")


class SamplingCallback(Callback):
    """Samples the LoRA that a LightningModule trains.

    Args:
        make: makes the sampler when training begins; called on the main process only.
        save: writes the module's LoRA to a path; else the adapter of PEFT or diffusers in it is found and written.
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

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the sampler, and sample the base model if that is wanted."""
        if trainer.is_global_zero:
            self.sampler = self.make()
            self._sample(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Sample after an optimizer step, if it is due; batches that only accumulate change no step."""
        self._sample(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Sample at the end of an epoch, if it is due. Lightning counts epochs from 0."""
        self._sample(trainer, pl_module, trainer.current_epoch + 1)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End the sampler, also of a training that failed; what is queued is still made."""
        if self.sampler is not None:
            wait_s = 0.0 if trainer.interrupted else self.wait_s
            self._show(self.sampler.close(wait=wait_s > 0, timeout=wait_s))
            for tracker in self.trackers:
                tracker.close()
        self.sampler = None

    def _sample(self, trainer: Any, module: Any, epoch: int | None = None) -> None:
        if self.sampler is None:
            return
        step: int = trainer.global_step
        if step != self._sampled and self.sampler.due(step=step, epoch=epoch):
            self._sampled = step  # several batches, and the end of an epoch, may have the same step
            self.sampler.submit(step=step, epoch=epoch, weights=functools.partial(self.save, module))
        self._show(self.sampler.results())

    def _show(self, results: Sequence[SampleResult]) -> None:
        for result in results:
            logger.info("rushes: step %d: %s %s", result.step, result.state.value, result.path or "")
            for tracker in self.trackers:
                with unstoppable(f"sample {result.id[:10]} is not shown"):
                    tracker.log(result)
