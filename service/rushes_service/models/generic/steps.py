"""The steps of a pipeline as they pass: by its own callback, or counted at its scheduler where it has none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from rushes_service.models.base import OnStep
from rushes_service.models.generic import calls
from rushes_service.models.generic.options import Signature

CALLBACKS = ("callback_on_step_end", "callback")
"""Arguments of pipelines that are called after each step; the second is diffusers' older one."""


def tells_steps(signature: Signature) -> bool:
    """True if the pipeline calls something after each step."""
    return any(callback in signature for callback in CALLBACKS)


@dataclass(frozen=True)
class Steps:
    """Who is told of `total` steps of a pipeline.

    `upcasts` is True for a pipeline whose last latents are brought to float32 as it does with a VAE in float16.
    """

    pipe: Any
    signature: Signature
    total: int
    on_step: OnStep
    upcasts: bool

    def arguments(self) -> dict[str, Any]:
        """The argument by which the pipeline tells of its steps, if it has one."""
        if not tells_steps(self.signature):
            return {}
        if "callback_on_step_end" in self.signature:
            return {"callback_on_step_end": self._ended}
        return {"callback": lambda index, _time, latents: self._tell(index + 1, latents)}

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Inside, steps of the scheduler are told of, for a pipeline that does not do so by itself."""
        if tells_steps(self.signature):
            yield
            return
        step, done = self.pipe.scheduler.step, 0

        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            found = step(*args, **kwargs)
            done += 1
            self._tell(done, found[0])
            return found

        with calls.in_place_of(self.pipe.scheduler, "step", counting):
            yield

    def _tell(self, done: int, latents: torch.Tensor) -> None:
        # A scheduler of the second order takes more steps than it was asked for.
        self.on_step(min(done, self.total), self.total, latents)

    def _ended(self, pipe: Any, index: int, _timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        self._tell(index + 1, tensors["latents"])
        last = index + 1 == len(pipe.scheduler.timesteps)
        return {"latents": tensors["latents"].float()} if last and self.upcasts else {}
