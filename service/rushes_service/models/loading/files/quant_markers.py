"""Entries of weight files that are not weights of the model: scales of quantised weights, and markers."""

from __future__ import annotations

from collections.abc import Iterable

SCALES = ("scale_weight", "weight_scale")
"""Beside an fp8 `weight`, what it is to be multiplied with: names of musubi-tuner and ComfyUI, old and new."""

QUANT_MARKERS = (*SCALES, "scale_input", "input_scale", "comfy_quant", "scaled_fp8", "spiece_model", "_extra_state")
"""Last parts of names: what fp8 is scaled by, marks that it is, and a tokenizer among the weights."""


def without_quant_markers(names: Iterable[str]) -> set[str]:
    """Names of the weights proper."""
    return {name for name in names if name.rpartition(".")[2] not in QUANT_MARKERS}
