"""How much a module of a file changes: its factors as numpy arrays, their scale, the norm of what they make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rushes.errors import CheckpointFormat
from rushes_service.lora.reading.scales import Config, configured_alpha, configured_rank, configured_scale

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E5M2": "u1", "F8_E4M3": "u1"}
"""How bytes are read; those that numpy has no type for are unfolded (see `widened`)."""

Arrays = dict[str, np.ndarray]

PRODUCTS = (
    ("up", "down"),
    ("hada_w1_a", "hada_w1_b"),
    ("hada_w2_a", "hada_w2_b"),
    ("lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2_a", "lokr_w2_b"),
)
"""Parts that are multiplied with each other."""


def arrays_of(path: Path, raw: np.ndarray, entries: Mapping[str, tuple[str, Any]]) -> Arrays:
    """A module's tensors that numpy can read.

    Args:
        raw: the file's data section, uint8.
        entries: key and header entry of each part.

    Raises:
        CheckpointFormat: the bytes of one do not fill its shape.
    """
    read = {part: array(path, raw, key, entry) for part, (key, entry) in entries.items()}
    return {part: values for part, values in read.items() if values is not None}


def array(path: Path, raw: np.ndarray, key: str, entry: Mapping[str, Any]) -> np.ndarray | None:
    """A tensor in float32, as a matrix where it is one; None for a type numpy cannot read.

    Raises:
        CheckpointFormat: its bytes do not fill its shape.
    """
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        return None
    begin, end = entry["data_offsets"]
    shape = entry["shape"]
    try:
        values = np.frombuffer(raw[begin:end].tobytes(), dtype)
        values = widened(values, entry["dtype"])
        matrix = values.reshape(shape[0], math.prod(shape[1:])) if shape else values.reshape(1)
    except ValueError as error:
        raise CheckpointFormat(f"{path}: its tensor {key} cannot be read ({error}); the file is damaged") from error
    with np.errstate(over="ignore"):
        return matrix.astype(np.float32)


def widened(values: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers of which `values` are the bits; bfloat16 and e5m2 are the upper halves of wider types."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E5M2":
        return (values.astype(np.uint16) << 8).view(np.float16)
    if dtype == "F8_E4M3":
        exponent, fraction = values >> 3 & 15, (values & 7) / 8
        size = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent.astype(int) - 7))
        size[values & 127 == 127] = np.nan  # it has no infinity
        return np.where(values & 128, -size, size)
    return values


def alpha_of(arrays: Arrays, name: str, config: Config | None) -> float | None:
    """A module's alpha, from the file or its configuration; None if nobody says."""
    if "alpha" in arrays:
        return float(arrays["alpha"].flat[0]) if arrays["alpha"].size else None
    return None if config is None else configured_alpha(config, name)


def scale_of(arrays: Arrays, name: str, rank: int | None, config: Config | None) -> float:
    """What the product of a module's factors is multiplied by."""
    if config is not None and "alpha" not in arrays and "diff" not in arrays:
        return configured_scale(config, name, rank or configured_rank(config, name))
    alpha = alpha_of(arrays, name, config)
    return alpha / rank if alpha is not None and rank else 1.0


def fit(arrays: Arrays) -> bool:
    """False if a factor is missing or empty, or two do not fit each other."""
    if "tucker" in arrays:
        return True
    for left, right in PRODUCTS:
        if (left in arrays) != (right in arrays):
            return False
        if left in arrays and (not arrays[left].size or arrays[left].shape[1] != arrays[right].shape[0]):
            return False
    if any(part.startswith("lokr") for part in arrays):
        return all({half, f"{half}_a"} & arrays.keys() for half in ("lokr_w1", "lokr_w2"))
    halves = [arrays[a].shape[:1] + arrays[b].shape[1:] for a, b in PRODUCTS[1:3] if a in arrays]
    return not halves or (len(halves) == 2 and halves[0] == halves[1])


def rank_of(arrays: Arrays) -> int | None:
    """Rank of a module's factors."""
    if "down" in arrays:
        return arrays["down"].shape[0]
    return next((arrays[part].shape[0] for part in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b") if part in arrays), None)


def norm_of(arrays: Arrays, name: str, config: Config | None) -> float | None:
    """Frobenius norm of what a module adds to a weight; None if it adds to none, infinity if float32 overflows."""
    with np.errstate(all="ignore"):
        norm = unscaled_norm(arrays)
    return None if norm is None else abs(scale_of(arrays, name, rank_of(arrays), config)) * norm


def unscaled_norm(arrays: Arrays) -> float | None:
    """Frobenius norm of what the factors make; a product's from its small Gram matrices."""
    if "tucker" in arrays:
        return None
    if {"down", "up"} <= arrays.keys():
        return product_norm(arrays["up"], arrays["down"])
    if {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= arrays.keys():
        first = arrays["hada_w1_a"] @ arrays["hada_w1_b"]
        return float(np.linalg.norm(first * (arrays["hada_w2_a"] @ arrays["hada_w2_b"])))
    if any(part.startswith("lokr") for part in arrays):
        return math.prod(factor_norm(arrays, part) for part in ("lokr_w1", "lokr_w2"))
    return float(np.linalg.norm(arrays["diff"])) if "diff" in arrays else None


def product_norm(up: np.ndarray, down: np.ndarray) -> float:
    """Norm of `up @ down` without forming it: |UD|^2 = sum(U'U * DD')."""
    square = np.sum((up.T @ up).astype(np.float64) * (down @ down.T).astype(np.float64))
    return math.sqrt(max(0.0, float(square)))


def factor_norm(arrays: Arrays, part: str) -> float:
    """Norm of one factor of a LoKr, whole or low-rank."""
    if part in arrays:
        return float(np.linalg.norm(arrays[part]))
    if f"{part}_a" in arrays and f"{part}_b" in arrays:
        return product_norm(arrays[f"{part}_a"], arrays[f"{part}_b"])
    return 0.0
