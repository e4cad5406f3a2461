"""Latents that became NaN or infinite are found within a step, without stopping the device."""

from __future__ import annotations

import torch

from rushes.errors import NonFiniteLatents
from rushes_service.runtime.pinned import pinned_bytes


class FiniteCheck:
    """Looks at the latents of each step.

    Asking a GPU "are they finite?" would wait for the step and leave the device idle meanwhile. So the answer is
    fetched in the background, and read when the next step has been queued: one step late, at most.
    """

    def __init__(self, device: torch.device, strength: float) -> None:
        self._device = device
        self._strength = strength
        self._pending: tuple[int, int, torch.cuda.Event] | None = None
        self._answer = pinned_bytes(1).view(torch.bool)

    def step(self, done: int, total: int, latents: torch.Tensor) -> None:
        """Look at the latents after step `done` of `total`.

        Raises:
            NonFiniteLatents: they, or those of the step before, are not finite.
        """
        finite = torch.isfinite(latents).all()
        if self._device.type != "cuda":
            self._judge(bool(finite), done, total)
            return
        self.finish()
        self._answer.copy_(finite[None], non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending = (done, total, event)

    def finish(self) -> None:
        """Wait for the last answer; raises as `step`."""
        if self._pending is None:
            return
        done, total, event = self._pending
        self._pending = None
        event.synchronize()
        self._judge(bool(self._answer), done, total)

    def _judge(self, finite: bool, done: int, total: int) -> None:
        if not finite:
            raise NonFiniteLatents(non_finite_message(done, total, self._strength))


def non_finite_message(done: int, total: int, strength: float) -> str:
    """Says at which step the latents were lost, and what to look at."""
    return (
        f"latents became NaN or infinite at step {done} of {total} (LoRA strength {strength:g}): the "
        "checkpoint has most likely diverged; `--m 0` shows whether the base model is sound; float16, or an extreme "
        "--l, --g or --fs, may overflow too"
    )
