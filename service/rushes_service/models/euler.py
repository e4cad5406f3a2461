"""Euler steps of flow matching in low precision, as FLUX's reference samplers take and time them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from rushes_service.runtime.compat_diffusers_models import next_sigmas


class ReferenceEuler(FlowMatchEulerDiscreteScheduler):
    """Euler steps in the precision of the latents, which are the transformer's, as the reference takes them.

    `levels` are the noise levels [steps + 1] on the CPU: asking the device for them would wait for it in each step.
    """

    levels: torch.Tensor

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """Prepare a run, as the scheduler does."""
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)
        self.levels = self.sigmas.cpu()

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **_options: Any) -> Any:
        """The sample after the step, alone in a tuple."""
        next_sigmas(self, timestep)  # counts the step
        sigma, following = self.levels[self.step_index - 1 : self.step_index + 1]
        return (sample + (following - sigma).item() * model_output,)


@contextlib.contextmanager
def timed_by(transformer: nn.Module, scheduler: ReferenceEuler) -> Iterator[None]:
    """Inside, each call of `transformer` is told the step's noise level, rounded once to the latents' precision.

    The pipeline rounds a thousandfold of it and divides. In bfloat16 that is another number for one step in four, by up
    to 4 of 1000.
    """

    def tell(
        _module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        level = scheduler.sigmas[scheduler.step_index or 0]
        noisy = inputs["hidden_states"]
        return args, {**inputs, "timestep": level.to(noisy).expand(len(noisy))}

    hook = transformer.register_forward_pre_hook(tell, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
