"""Muon for matrices and kernels, Adam for everything else: what made these small models learn on a CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed, nn

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz step (Keller Jordan, 2024)."""


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised: every direction a matrix can learn moves at the same pace.

    Kernels of convolutions are taken as matrices [out, everything else].
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                average = state.setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(average, group["momentum"])  # Nesterov
                update = orthogonal(ahead.flatten(1)).view_as(parameter)
                shape = update.flatten(1).shape
                parameter.sub_(update, alpha=group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5)


def orthogonal(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest half-orthogonal matrix, roughly, iterated in the small Gram matrix: cheap for wide kernels."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    whole = identity = torch.eye(len(gram))
    for _ in range(iterations):
        a, b, c = QUINTIC
        factor = a * identity + b * gram + c * gram @ gram
        whole = factor @ whole
        gram = factor @ gram @ factor
    result = whole @ wide
    return result.T if tall else result


class Both:
    """Muon and Adam side by side, with one learning-rate factor that falls to zero."""

    def __init__(self, model: nn.Module, muon_lr: float, adam_lr: float, plain: tuple[str, ...] = ()) -> None:
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            matrix = parameter.dim() >= 2 and parameter.flatten(1).shape[1] > 1 and min(parameter.shape[:2]) > 3
            (matrices if matrix and not any(part in name for part in plain) else others).append(parameter)
        self.optimizers = [Muon(matrices, muon_lr), torch.optim.Adam(others, adam_lr, betas=(0.9, 0.98))]
        self.rates = [muon_lr, adam_lr]

    def step(self, factor: float) -> None:
        """One step at `factor` times the learning rates; clears the gradients.

        With several processes (`torchrun`) they all step by the mean of their gradients.
        """
        if distributed.is_initialized():
            average([parameter for group in self.groups() for parameter in group["params"]])
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of both."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def state_dict(self) -> list[dict[str, object]]:
        """For a checkpoint."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict[str, object]]) -> None:
        """From a checkpoint."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def average(parameters: list[nn.Parameter]) -> None:
    """Average the gradients of all processes."""
    with_gradient = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in with_gradient])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, part in zip(with_gradient, flat.split([g.numel() for g in with_gradient]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def join() -> int:
    """Join the other processes of `torchrun`, if there are any; this one's rank."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        distributed.init_process_group("gloo")
        return distributed.get_rank()
    return 0


class Clock:
    """How much of a time budget is spent, the same in every process; a checkpoint may have spent some before."""

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self._budget = 60 * minutes
        self._start = time.monotonic() - spent

    def spent(self) -> float:
        """Seconds by the first process's clock."""
        seconds = torch.tensor(time.monotonic() - self._start, dtype=torch.float64)
        if distributed.is_initialized():
            distributed.broadcast(seconds, 0)
        return min(float(seconds), self._budget)


def schedule(progress: float, warm: float = 0.02) -> float:
    """Learning-rate factor: up within `warm`, flat to 40 %, then down to zero; `progress` is 0..1."""
    return min(1.0, progress / warm + 0.02, max(0.0, (1 - progress) / 0.6))
