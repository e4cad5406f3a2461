"""Drafts: how many steps are skipped, and which families can be drafted."""

from __future__ import annotations

import math

from rushes.errors import ArchitectureError, ConfigError
from rushes.families.table import ARCHITECTURES, architecture
from rushes.wire.jobs import DRAFT_THRESHOLD


def draft_threshold(asked: float | bool | None, flag: str = "draft") -> float | None:
    """The threshold of a draft: True is the usual one, False and None are no draft.

    Args:
        flag: what asked for it, for the message.

    Raises:
        ConfigError: it is no number of 0 or more.
    """
    if asked is None or asked is False:
        return None
    if asked is True:
        return DRAFT_THRESHOLD
    if not math.isfinite(asked) or asked < 0:
        raise ConfigError(f"{flag} {asked}: must be a number of 0 or more; {DRAFT_THRESHOLD} is usual")
    return float(asked)


def check_draft(name: str) -> None:
    """Raise `ArchitectureError` unless the family called `name` can be drafted."""
    if not architecture(name).drafts:
        known = ", ".join(sorted(spec.name for spec in ARCHITECTURES.values() if spec.drafts and spec.sampled))
        raise ArchitectureError(
            f"{name} cannot be drafted: diffusers' FirstBlockCache does not know its transformer; leave the draft out. "
            f"These can: {known}"
        )
