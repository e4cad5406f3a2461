"""How much a change adds to a weight: the Frobenius norm of its delta at strength 1, mostly without forming it."""

from __future__ import annotations

import math

import torch

from rushes_service.lora.changes import Change, Decomposed, Difference, Hadamard, Kronecker, LowRank


def norm_of(change: Change) -> float | None:
    """Norm of what a change adds; None for one that replaces a weight. DoRA counts by the factors in it."""
    if isinstance(change, Decomposed):
        return norm_of(change.inner)
    if isinstance(change, LowRank):
        return abs(change.scale) * product_norm((change.up, change.down))
    if isinstance(change, Hadamard):
        return float(change.delta(torch.zeros((), dtype=torch.float32)).norm())
    if isinstance(change, Kronecker):
        return abs(change.scale) * product_norm(change.w1) * product_norm(change.w2)
    if isinstance(change, Difference):
        return abs(change.scale) * product_norm((change.value,))
    return None


def product_norm(factors: tuple[torch.Tensor, ...]) -> float:
    """Norm of a matrix, or of a product of two from their small Gram matrices: |UD|^2 = sum(U'U * DD')."""
    exact = [factor.double() for factor in factors]
    if len(exact) == 1:
        return float(exact[0].norm())
    up, down = exact
    square = ((up.T @ up) * (down @ down.T)).sum()
    return math.sqrt(max(0.0, float(square)))
