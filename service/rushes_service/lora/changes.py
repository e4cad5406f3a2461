"""What a file does to one weight: the kinds of adapter, as matrices.

Every weight is seen as a matrix [out, in]: a convolution's kernel flattened behind its output channels, a vector
as one column. Formulas: LoRA arXiv:2106.09685, LoHa arXiv:2108.06098, LoKr arXiv:2309.14859, DoRA arXiv:2402.09353.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch

from rushes.errors import LoraValue

DORA_EPS = float(torch.finfo(torch.float32).eps)
"""Added to a norm before it divides, as LyCORIS does."""


class Change(ABC):
    """What becomes of one weight. Its tensors may be of any precision and lie on the CPU."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight it is for."""

    @property
    def rank(self) -> int | None:
        """Rank of the factors; None for a change that has none."""
        return None

    @abstractmethod
    def part(self, start: int, stop: int) -> Change:
        """The change of rows `start` to `stop` alone."""

    @abstractmethod
    def delta(self, base: torch.Tensor) -> torch.Tensor:
        """What is added to `base` at strength 1, in the precision and on the device of `base` [out, in]."""


@dataclass(frozen=True)
class LowRank(Change):
    """LoRA: `scale * up @ down`, with down [rank, in], up [out, rank]."""

    kind: ClassVar[str] = "LoRA"
    down: torch.Tensor
    up: torch.Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def part(self, start: int, stop: int) -> Change:
        return replace(self, up=self.up[start:stop])

    def delta(self, base: torch.Tensor) -> torch.Tensor:
        return self.scale * (uploaded(self.up, base) @ uploaded(self.down, base))


@dataclass(frozen=True)
class Hadamard(Change):
    """LoHa: `scale * (w1_a @ w1_b) * (w2_a @ w2_b)`, with `a` [out, rank] and `b` [rank, in]."""

    kind: ClassVar[str] = "LoHa"
    w1_a: torch.Tensor
    w1_b: torch.Tensor
    w2_a: torch.Tensor
    w2_b: torch.Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.w1_a.shape[0], self.w1_b.shape[1]

    @property
    def rank(self) -> int:
        return self.w1_b.shape[0]

    def part(self, start: int, stop: int) -> Change:
        return replace(self, w1_a=self.w1_a[start:stop], w2_a=self.w2_a[start:stop])

    def delta(self, base: torch.Tensor) -> torch.Tensor:
        first = uploaded(self.w1_a, base) @ uploaded(self.w1_b, base)
        return first.mul_(uploaded(self.w2_a, base) @ uploaded(self.w2_b, base)).mul_(self.scale)


@dataclass(frozen=True)
class Kronecker(Change):
    """LoKr: `scale * kron(w1, w2)`; each factor is whole (one tensor) or low-rank (two, to be multiplied).

    `rows` are those kept of the product.
    """

    kind: ClassVar[str] = "LoKr"
    w1: tuple[torch.Tensor, ...]
    w2: tuple[torch.Tensor, ...]
    scale: float = 1.0
    rows: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        out = self.w1[0].shape[0] * self.w2[0].shape[0]
        columns = self.w1[-1].shape[1] * self.w2[-1].shape[1]
        return (out if self.rows is None else len(range(out)[slice(*self.rows)])), columns

    @property
    def rank(self) -> int | None:
        factored = next((factor for factor in (self.w2, self.w1) if len(factor) == 2), None)
        return None if factored is None else factored[1].shape[0]

    def part(self, start: int, stop: int) -> Change:
        offset = self.rows[0] if self.rows else 0
        return replace(self, rows=(offset + start, offset + stop))

    def delta(self, base: torch.Tensor) -> torch.Tensor:
        w1, w2 = (product([uploaded(part, base) for part in factor]) for factor in (self.w1, self.w2))
        whole = torch.kron(w1, w2).mul_(self.scale)
        return whole if self.rows is None else whole[slice(*self.rows)]


@dataclass(frozen=True)
class Difference(Change):
    """A whole difference [out, in], added as it is."""

    kind: ClassVar[str] = "difference"
    value: torch.Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.value.shape[0], self.value.shape[1]

    def part(self, start: int, stop: int) -> Change:
        return replace(self, value=self.value[start:stop])

    def delta(self, base: torch.Tensor) -> torch.Tensor:
        return uploaded(self.value, base) * self.scale


@dataclass(frozen=True)
class Replacement(Change):
    """Another weight [out, in] in the place of the base's; between strengths 0 and 1 a mixture of both."""

    kind: ClassVar[str] = "whole weight"
    value: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.value.shape[0], self.value.shape[1]

    def part(self, start: int, stop: int) -> Change:
        return replace(self, value=self.value[start:stop])

    def delta(self, base: torch.Tensor) -> torch.Tensor:
        return uploaded(self.value, base) - base


@dataclass(frozen=True)
class Decomposed(Change):
    """DoRA: direction from base and inner delta, length from the file.

    `magnitude` is [out, 1] (lengths of rows) or [1, in] (lengths of columns).
    """

    kind: ClassVar[str] = "DoRA"
    inner: Change
    magnitude: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    def part(self, start: int, stop: int) -> Change:
        """Rows alone; lengths of columns are those of the whole weight and cannot be split."""
        if self.magnitude.shape[0] == 1:
            raise ValueError("its DoRA scale runs over the columns of a fused weight, which this model has in parts")
        return replace(self, inner=self.inner.part(start, stop), magnitude=self.magnitude[start:stop])

    def delta(self, base: torch.Tensor) -> torch.Tensor:
        changed = base + self.inner.delta(base)
        over_rows = self.magnitude.shape[1] == 1
        length = changed.norm(dim=1 if over_rows else 0, keepdim=True) + DORA_EPS
        return changed.mul_(uploaded(self.magnitude, base) / length).sub_(base)


@dataclass(frozen=True)
class Patch:
    """A change and the parameter (`blocks.0.attn1.to_q.weight`) it is for; `into`: only these of its rows."""

    parameter: str
    change: Change
    into: tuple[int, int] | None = None


Weighted = tuple[Patch, float]
"""One change of a parameter, and how strongly."""


def changed_weight(base: torch.Tensor, weighted: Sequence[Weighted]) -> torch.Tensor:
    """A weight [out, in] with several changes, or one that is no plain LoRA; computed in float32 at least."""
    exact = base.to(torch.float64 if base.dtype == torch.float64 else torch.float32, copy=True)
    for whole in (True, False):
        parts = [item for item in weighted if isinstance(item[0].change, Replacement) is whole]
        # Deltas that depend on the weight (DoRA) see the one without the other deltas.
        start = exact.clone() if len(parts) > 1 else exact
        for patch, strength in parts:
            rows = slice(*patch.into) if patch.into else slice(None)
            if whole and strength == 1:
                exact[rows] = uploaded(patch.change.value, exact)  # type: ignore[attr-defined]
                continue
            delta = patch.change.delta(start[rows])
            if tuple(delta.shape) != tuple(exact[rows].shape):
                raise LoraValue(f"{patch.parameter} is {list(exact[rows].shape)}, its change {list(delta.shape)}")
            exact[rows] += strength * delta
    return exact


def uploaded(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`tensor` on the device and in the precision of `like`.

    It is copied as it is, from pinned memory without waiting, and converted there: in one step PyTorch would convert it
    on the CPU, into memory that is not pinned.
    """
    return tensor.to(like.device, non_blocking=True).to(like.dtype)


def product(factors: list[torch.Tensor]) -> torch.Tensor:
    """One matrix as it is, or two multiplied."""
    return factors[0] if len(factors) == 1 else factors[0] @ factors[1]


def tensors_of(change: Change) -> Iterator[torch.Tensor]:
    """All tensors that a change is made of."""
    for entry in fields(change):  # type: ignore[arg-type]
        value = getattr(change, entry.name)
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, Change):
            yield from tensors_of(value)
        elif isinstance(value, tuple):
            yield from (part for part in value if isinstance(part, torch.Tensor))


def moved(change: Change, device: torch.device) -> Change:
    """A change with its tensors on `device`, in their own precision."""

    def there(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        if isinstance(value, Change):
            return moved(value, device)
        return tuple(there(part) for part in value) if isinstance(value, tuple) else value

    return replace(change, **{entry.name: there(getattr(change, entry.name)) for entry in fields(change)})  # type: ignore[type-var,arg-type]


def as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as a matrix [out, in] that shares its memory."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor.reshape(-1, 1)
