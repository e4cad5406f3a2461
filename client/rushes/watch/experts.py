"""Checkpoints of families whose model consists of two transformers, one for much noise and one for little."""

from __future__ import annotations

from pathlib import Path

from rushes.checkpoints.file_names import without_expert
from rushes.submission.build import Run, two_experts
from rushes.wire.models import Expert

NOISE = {"high": "much", "low": "little"}


def of_both_experts(directory: str, *, short: bool) -> Path:
    """An output directory without the expert in its name: trainers of each expert write into one of their own.

    Args:
        short: also read `_high` and the like at the end.
    """
    path = Path(directory)
    name, expert = without_expert(path.name, short=short)
    if expert is None:
        return path
    return path.with_name(name) if name else path.parent


def not_sampled(expert: Expert | None, run: Run) -> str | None:
    """Why a checkpoint for one of two transformers cannot be sampled as `run` says; None if it can."""
    if expert is None or not two_experts(run.model):
        return None
    if run.model.experts not in ("both", expert):
        return (
            f"for the transformer for {NOISE[expert]} noise, and samples are made with the other one; --rushes_experts "
            "both samples with both (and --backfill what was left alone)"
        )
    if run.model.lora_expert not in (None, expert):
        return f"for the transformer for {NOISE[expert]} noise, against --rushes_lora_expert {run.model.lora_expert}"
    return None
