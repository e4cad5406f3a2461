"""From the tensors a file has for one module to the change they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from rushes_service.lora.changes import (
    Change,
    Decomposed,
    Difference,
    Hadamard,
    Kronecker,
    LowRank,
    Replacement,
    as_matrix,
)
from rushes_service.lora.reading.scales import Scales

Parts = Mapping[str, torch.Tensor]

HADAMARD = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")

FOR_WEIGHTS = {
    "LoRA": {"down", "up"},
    "LoHa": {*HADAMARD},
    "LoKr": {f"lokr_w{number}{half}" for number in (1, 2) for half in ("", "_a", "_b")},
    "difference": {"diff"},
    "whole weight": {"value"},
}
"""Parts that say what becomes of a weight, by kind; a module has those of one kind."""

FOR_BIASES = {"up_bias", "diff_b", "value_b"}
"""Parts that say what becomes of a bias; a module has one of them."""

WITH_LENGTH = {"LoRA", "LoHa", "LoKr"}
"""Kinds that a DoRA scale may go with."""


@dataclass(frozen=True)
class Named:
    """A module as the file calls it, and what says how strongly it acts.

    `rows` are those of the pieces, for a module that is several here (a fused q, k, v).
    """

    name: str
    scales: Scales
    expert: str | None = None
    rows: tuple[int, ...] = ()

    def scale(self, rank: float, parts: Parts) -> float:
        """What a product of factors of `rank` is multiplied by."""
        return self.scales.scale(self.name, rank, alpha(parts), self.expert)


def weight_change(module: Named, parts: Parts) -> Change | None:
    """What becomes of a module's weight; None if the file only has a bias for it.

    Raises:
        ValueError: tensors are missing, or do not fit each other; the message names them.
    """
    if "tucker" in parts:
        raise ValueError("is a Tucker decomposition, which is for large convolutions and is not supported")
    check_one_kind(parts)
    if "value" in parts:
        return Replacement(as_matrix(parts["value"]))
    found = adapter(module, parts)
    if found is not None and "magnitude" in parts:
        return Decomposed(found, magnitude(parts["magnitude"], found.shape))
    if found is None and "diff" in parts:
        return Difference(as_matrix(parts["diff"]))
    if found is None and not parts.keys() & {"diff_b", "value_b"}:
        raise ValueError(f"has no weights, only {', '.join(parts)}")
    return found


def check_one_kind(parts: Parts) -> None:
    """Raise `ValueError` for parts of which only some could be used."""
    kinds = [kind for kind, own in FOR_WEIGHTS.items() if parts.keys() & own]
    biases = sorted(parts.keys() & FOR_BIASES)
    for found in (kinds, biases):
        if len(found) > 1:
            raise ValueError(f"has {' and '.join(found)} at once; it is not clear which of them is meant")
    if "magnitude" in parts and kinds and kinds[0] not in WITH_LENGTH:
        raise ValueError(f"has a DoRA scale beside a {kinds[0]}, which does not go together")
    if "magnitude" in parts and not kinds:
        raise ValueError("has a DoRA scale, but nothing that it scales")


def adapter(module: Named, parts: Parts) -> Change | None:
    """LoRA, LoHa or LoKr, whichever the tensors are; None if they are none of these."""
    if parts.keys() & {"down", "up"}:
        return low_rank(module, parts)
    if any(part in parts for part in HADAMARD):
        w1_a, w1_b, w2_a, w2_b = (as_matrix(wanted(parts, part)) for part in HADAMARD)
        if len({w1_a.shape[1], w1_b.shape[0], w2_a.shape[1], w2_b.shape[0]}) > 1:
            raise ValueError("has LoHa factors that do not fit each other")
        if (len(w1_a), w1_b.shape[1]) != (len(w2_a), w2_b.shape[1]):
            raise ValueError("has LoHa factors that do not fit each other")
        return Hadamard(w1_a, w1_b, w2_a, w2_b, module.scale(w1_b.shape[0], parts))
    if any(part.startswith("lokr") for part in parts):
        return kronecker(module, parts)
    return None


def low_rank(module: Named, parts: Parts) -> LowRank:
    """A plain LoRA."""
    down, up = as_matrix(wanted(parts, "down")), as_matrix(wanted(parts, "up"))
    rank = down.shape[0]
    if up.shape[1] != rank:
        raise ValueError(f"has rank {rank} in its down matrix but {up.shape[1]} in its up matrix")
    trained = module.scales.rank_of_pieces(down, up, module.rows)
    return LowRank(down, up, module.scale(trained, parts))


def kronecker(module: Named, parts: Parts) -> Kronecker:
    """A LoKr. With both factors whole there is no rank, and its `alpha` hardly ever means anything."""
    w1, w2 = factor(parts, "lokr_w1"), factor(parts, "lokr_w2")
    ranks = [pair[1].shape[0] for pair in (w2, w1) if len(pair) == 2]
    if ranks:
        return Kronecker(w1, w2, module.scale(ranks[0], parts))
    return Kronecker(w1, w2, module.scales.whole_scale(module.name, alpha(parts), module.expert))


def factor(parts: Parts, name: str) -> tuple[torch.Tensor, ...]:
    """One factor of a LoKr: whole, or two matrices to be multiplied."""
    if name in parts:
        if parts.keys() & {f"{name}_a", f"{name}_b"}:
            raise ValueError(f"has {name} whole and as factors at once; it is not clear which is meant")
        return (as_matrix(parts[name]),)
    first, second = as_matrix(wanted(parts, f"{name}_a")), as_matrix(wanted(parts, f"{name}_b"))
    if first.shape[1] != second.shape[0]:
        raise ValueError(f"has {name}_a of rank {first.shape[1]} but {name}_b of rank {second.shape[0]}")
    return first, second


def wanted(parts: Parts, part: str) -> torch.Tensor:
    """A part that must be there."""
    if part not in parts:
        raise ValueError(f"has no {part} matrix; the file is incomplete")
    if parts[part].dim() == 0:
        raise ValueError(f"has a single number for its {part} matrix; the file is damaged")
    if not parts[part].numel():
        raise ValueError(f"has an empty {part} matrix; were shards (ZeRO-3, FSDP) saved without being gathered?")
    return parts[part]


def magnitude(value: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """A DoRA scale as [out, 1] or [1, in]; PEFT writes [out], and [1, out, 1, ...] for convolutions."""
    rows, columns = shape
    if value.dim() > 2 and value.shape[1] == rows == value.numel():
        return value.reshape(rows, 1)
    if value.numel() == rows and (value.dim() == 1 or value.shape[0] == rows):
        return value.reshape(rows, 1)
    if value.numel() == columns and value.dim() > 1 and value.shape[0] == 1:
        return value.reshape(1, columns)
    raise ValueError(f"has a DoRA scale {list(value.shape)} for a weight {list(shape)}")


def alpha(parts: Parts) -> float | None:
    """A module's own alpha; None if it has none."""
    if "alpha" not in parts:
        return None
    if parts["alpha"].numel() != 1:
        raise ValueError(f"has an alpha of shape {list(parts['alpha'].shape)}, which must be one number")
    return float(parts["alpha"])
