"""Any training loop that uses accelerate: diffusers' own LoRA scripts, and what was made from them.

    make = lambda: TrainingSampler.from_args(args, architecture="wan2.1-t2v")
    with sampling(accelerator, transformer, make) as samples:
        for ...:
            ...
            if accelerator.sync_gradients:
                global_step += 1
                samples.step(global_step)

Only the main process hands anything over; the others need not know. The model may be replicated (DDP) or compiled.
Where its weights are in pieces (FSDP, DeepSpeed ZeRO-3), save the LoRA as your script does, and give its path as
`weights`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from rushes._compat.accelerate import prepared_models
from rushes.checkpoints.weights import Weights
from rushes.integrations.adapter_files import carries_adapter, save_adapter
from rushes.integrations.result_logger import SHOWN_BY, log_exceptions
from rushes.trackers import Tracker
from rushes.training.sampler import TrainingSampler
from rushes.wire.results import SampleResult

logger = logging.getLogger("rushes")

MakeSampler = Callable[[], TrainingSampler]


class Samples:
    """What `sampling` gives: one call per optimizer step, and one per epoch if samples are to be named by epochs.

    Args:
        sampler: None on every process but the main one.
    """

    def __init__(self, accelerator: Any, model: Any, sampler: TrainingSampler | None) -> None:
        self.accelerator = accelerator
        self.model = model
        self.sampler = sampler
        self._trackers: list[Tracker] | None = None
        self._told = False

    def step(self, step: int, *, epoch: int | None = None, weights: Weights | None = None) -> None:
        """Hand the LoRA over if it is due, and show what has come back in accelerate's trackers. Never waits.

        Args:
            step: optimizer steps done; 0 before the first, for samples of the base model.
            epoch: epochs done, at the end of one.
            weights: as for `TrainingSampler.submit`; else the LoRA of the model.
        """
        if self.sampler is None:
            return
        if self.sampler.due(step=step, epoch=epoch):
            if weights is None:
                with log_exceptions("whether other models carry a LoRA is not known"):
                    self.tell_of_other_adapters()
            submit(self.accelerator, self.model, self.sampler, step=step, epoch=epoch, weights=weights)
        self.show(self.sampler.results())

    def tell_of_other_adapters(self) -> None:
        """Warn, once, of models that are trained as well: a sample without their LoRA is not what was trained."""
        if self._told:
            return
        self._told = True
        unwrap = functools.partial(self.accelerator.unwrap_model, keep_torch_compile=False)
        own = unwrap(self.model)
        prepared = [unwrap(model) for model in prepared_models(self.accelerator)]
        if others := {type(model).__name__ for model in prepared if model is not own and carries_adapter(model)}:
            logger.warning(
                "samples have the LoRA of %s alone, and %s carries one, too: give `weights` that write both",
                type(own).__name__,
                " and ".join(sorted(others)),
            )

    def show(self, results: Iterable[SampleResult]) -> None:
        """Log results in accelerate's own trackers, at the steps that they belong to."""
        if self._trackers is None and self.accelerator.trackers:
            self._trackers = []
            for known in [tracker for tracker in self.accelerator.trackers if tracker.name in SHOWN_BY]:
                with log_exceptions(f"no samples are shown in {known.name}"):
                    self._trackers.append(SHOWN_BY[known.name](known))
        for result in results:
            for tracker in self._trackers or ():
                with log_exceptions(f"sample {result.id[:10]} is not shown"):
                    tracker.log(result)

    def close(self, wait_s: float = 0.0) -> None:
        """End the sampler after at most `wait_s` seconds of waiting for what was handed over."""
        if self.sampler is None:
            return
        self.show(self.sampler.close(wait=wait_s > 0, timeout=wait_s))
        for tracker in self._trackers or ():
            with log_exceptions("a tracker is not closed"):
                tracker.close()
        self.sampler = None


@contextmanager
def sampling(accelerator: Any, model: Any, make: MakeSampler, *, wait_s: float = 0.0) -> Generator[Samples]:
    """Sample a training loop.

    Args:
        accelerator: the loop's own.
        model: what is trained: with a LoRA of PEFT or diffusers, `prepare`d or not.
        make: makes the sampler; called on the main process only.
        wait_s: at the end, how long to wait for samples that are on their way to a tracker. End the trackers
            (`accelerator.end_training()`) after the `with` block.

    Raises:
        PromptError, ArchitectureError, ConfigError: before training has begun.
    """
    samples = Samples(accelerator, model, make() if accelerator.is_main_process else None)
    try:
        yield samples
    except BaseException:
        samples.close()
        raise
    samples.close(wait_s)


def submit(
    accelerator: Any,
    model: Any,
    sampler: TrainingSampler,
    *,
    step: int,
    epoch: int | None = None,
    weights: Weights | None = None,
) -> None:
    """Hand over the LoRA of a model, wrapped by accelerate or not, from the main process; elsewhere nothing is done."""
    if accelerator.is_main_process:
        own = functools.partial(save_adapter, accelerator.unwrap_model(model, keep_torch_compile=False))
        sampler.submit(step=step, epoch=epoch, weights=weights if weights is not None else own)
