"""UniPC for flow matching with data prediction, B(h) = h: a predictor-corrector of order up to 3.

Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models" (arXiv:2302.04867),
equations 3 and 9 in its data-prediction form. A flow x = (1 - sigma) x0 + sigma n obeys dx/dsigma = (x - x0) / sigma,
which in lambda = -log sigma has the exponential solution

    x_t = (sigma_t / sigma_s) x_s - (e^-h - 1) x0 + ...,    h = lambda_t - lambda_s

FramePack's conventions differ from diffusers' UniPC: the order is 3 from the third step to the last (no lower order at
the end), nothing is evaluated at sigma 0, and the result is the last prediction of x0.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np
import torch

MAX_ORDER = 3

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""x0 from noisy latents and sigma [1]; both float32."""


def sample_unipc(
    predict: Predict,
    noise: torch.Tensor,
    sigmas: torch.Tensor,
    on_step: Callable[[int, torch.Tensor], None],
) -> torch.Tensor:
    """Denoise `noise`; the last prediction of x0.

    Args:
        sigmas: [steps + 1] on the CPU, falling from 1 to 0. The model is called once at each but the last.
        on_step: called after each step with steps done and the prediction so far; may raise to stop.
    """
    order = min(MAX_ORDER, len(sigmas) - 2)
    past: deque[tuple[float, torch.Tensor]] = deque(maxlen=max(order, 1))
    sample = noise
    # Read on the host, used on the device: asking the device for them would wait for it in each step.
    levels = sigmas.tolist()
    for index, sigma in enumerate(sigmas[:-1].to(noise.device)):
        if not past:
            found = predict(sample, sigma[None])
        else:
            sample, found = step(predict, sample, (sigma, levels[index]), list(past)[::-1], min(order, index))
        past.append((-math.log(levels[index]), found))
        on_step(index + 1, found)
    return past[-1][1]


def step(
    predict: Predict,
    sample: torch.Tensor,
    sigma: tuple[torch.Tensor, float],
    past: list[tuple[float, torch.Tensor]],
    order: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advance `sample` to `sigma`: the corrected sample and the prediction of x0 made on the way.

    `sigma` is given as a tensor and as a number. `past` holds lambda and x0 of earlier steps, latest first, at least
    `order` of them.
    """
    start, newest = past[0]
    h = -math.log(sigma[1]) - start
    ratios = [(earlier - start) / h for earlier, _ in past[1:order]]
    slopes = [(x0 - newest) / ratio for ratio, (_, x0) in zip(ratios, past[1:order], strict=True)]
    drifted = math.exp(-h) * sample - math.expm1(-h) * newest
    predicted = drifted + h * combined(slopes, predictor_weights(ratios, h))
    found = predict(predicted, sigma[0][None])
    corrected = drifted + h * combined([*slopes, found - newest], corrector_weights(ratios, h))
    return corrected, found


def combined(slopes: list[torch.Tensor], weights: list[float]) -> torch.Tensor | float:
    """Weighted sum."""
    return sum((weight * slope for weight, slope in zip(weights, slopes, strict=True)), start=0.0)


def predictor_weights(ratios: list[float], h: float) -> list[float]:
    """Weights of the earlier slopes. Of a single one it is 1/2, as the paper advises for order 2."""
    return [0.5] if len(ratios) == 1 else solved(ratios, h)


def corrector_weights(ratios: list[float], h: float) -> list[float]:
    """Weights of the earlier slopes and of the newest one. With nothing earlier it is 1/2."""
    return solved([*ratios, 1.0], h) if ratios else [0.5]


def solved(ratios: list[float], h: float) -> list[float]:
    """The weights that match the exact solution up to the order of len(`ratios`): Vandermonde(r) a = b."""
    powers = np.vander(ratios, increasing=True).T
    return list(np.linalg.solve(powers, moments(len(ratios), h))) if ratios else []


def moments(count: int, h: float) -> np.ndarray:
    """n! phi_(n+1)(-h) for n = 1 .. `count`, where phi_1(z) = (e^z - 1) / z, phi_(k+1)(z) = (phi_k(z) - 1/k!) / z."""
    z = -h
    phi = math.expm1(z) / z
    values = []
    for n in range(1, count + 1):
        phi = (phi - 1 / math.factorial(n)) / z
        values.append(math.factorial(n) * phi)
    return np.array(values)
