"""Which module of the live model a name in a LoRA file means.

Trainers name modules as the model's first release did (`blocks.0.self_attn.q`), diffusers in its own way
(`blocks.0.attn1.to_q`). A family states the rule from the second to the first; the table is then read off the
live model, so that it holds exactly the modules that exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class LoraTarget:
    """A module of the live model, by its diffusers name, that a delta is added to.

    `rows` is the part of the file's `up` matrix that belongs to it, for a file whose module is several modules here
    (a fused q, k, v); None takes all.
    """

    module: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class NameTable:
    """Module names as files write them, and the live modules they mean.

    `dotted` holds original and diffusers names, `flat` the same with underscores for dots, as musubi-tuner and
    kohya write them.
    """

    dotted: Mapping[str, tuple[LoraTarget, ...]]
    flat: Mapping[str, tuple[LoraTarget, ...]]

    def find(self, name: str, *, flat: bool) -> tuple[LoraTarget, ...]:
        """Targets of a name; empty if the model has no such module."""
        return (self.flat if flat else self.dotted).get(name, ())


def name_table(model: nn.Module, original_name: Callable[[str], str]) -> NameTable:
    """The table of every linear and convolution of `model`.

    Args:
        original_name: the name in the model's first release, from the diffusers name.
    """
    names: dict[str, tuple[LoraTarget, ...]] = {}
    for name in weighted_modules(model):
        names[name] = names[original_name(name)] = (LoraTarget(name),)
    return NameTable(names, {name.replace(".", "_"): targets for name, targets in names.items()})


def weighted_modules(model: nn.Module) -> Iterable[str]:
    """Names of the modules that a LoRA can be merged into."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return (name for name, module in model.named_modules() if isinstance(module, kinds))


def renamed(name: str, rules: Sequence[tuple[re.Pattern[str], str]]) -> str:
    """`name` after the first rule that matches it whole; unchanged if none does."""
    for pattern, replacement in rules:
        if match := pattern.fullmatch(name):
            return match.expand(replacement)
    return name
