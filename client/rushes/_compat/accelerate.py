"""What accelerate's `Accelerator` has and does not document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def prepared_models(accelerator: Any) -> Sequence[Any]:
    """Models that it has prepared, in that order, as it wraps them."""
    return getattr(accelerator, "_models", ())


def prepared_schedulers(accelerator: Any) -> Sequence[Any]:
    """Learning rate schedulers that it has prepared, in that order, as it wraps them."""
    return accelerator._schedulers
