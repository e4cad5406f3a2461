"""Lightning: `Trainer(callbacks=[SamplingCallback(make_sampler)])`, with `lightning` or `pytorch_lightning`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rushes.integrations.callbacks import Sampling

if TYPE_CHECKING:
    Callback = object
else:
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError:
        from pytorch_lightning import Callback


class SamplingCallback(Sampling, Callback):
    """Samples the LoRA that a LightningModule trains. Its arguments are those of
    `rushes.integrations.callbacks.Sampling`.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the sampler, and sample the base model if that is wanted."""
        if trainer.is_global_zero:
            self.sampler = self.make()
            self._sample(trainer.global_step, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Sample after an optimizer step, if it is due; batches that only accumulate change no step."""
        self._sample(trainer.global_step, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Sample at the end of an epoch, if it is due. Lightning counts epochs from 0."""
        self._sample(trainer.global_step, pl_module, trainer.current_epoch + 1)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End the sampler of a training that failed or was interrupted: `teardown` is not called then."""
        self._end(0.0)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End the sampler; what is queued is still made."""
        self._end(self.wait_s)
