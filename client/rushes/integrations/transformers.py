"""Hugging Face's Trainer: `Trainer(..., callbacks=[SamplingCallback(make_sampler)])`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rushes.integrations.callbacks import Sampling

if TYPE_CHECKING:
    TrainerCallback = object
else:
    from transformers import TrainerCallback


class SamplingCallback(Sampling, TrainerCallback):
    """Samples the LoRA that the Trainer trains. Its arguments are those of `rushes.integrations.callbacks.Sampling`."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the sampler, and sample the base model if that is wanted."""
        if state.is_world_process_zero:
            self.sampler = self.make()
            self._sample(state.global_step, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sample after an optimizer step, if it is due."""
        self._sample(state.global_step, kwargs["model"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sample at the end of an epoch, if it is due; the last one may end before it is whole, by `max_steps`."""
        whole = state.epoch and float(state.epoch).is_integer()
        self._sample(state.global_step, kwargs["model"], int(state.epoch) if whole else None)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the sampler; what is queued is still made."""
        self._end(self.wait_s)
