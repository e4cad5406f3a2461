"""Which module of the live model a name in a LoRA file means.

Trainers name modules as the model's first release did (`blocks.0.self_attn.q`), diffusers in its own way
(`blocks.0.attn1.to_q`). A family states the rule from the second to the first; the table is then read off the
live model, so that it holds exactly the modules that exist.

Where one original module is several here (`img_attn_qkv` is `to_q`, `to_k` and `to_v`), the rule numbers the parts:
`double_blocks.0.img_attn_qkv#0`, `#1`, `#2`, in the order of the original's rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

PART = "#"
"""Between the name of a fused module and the number of its part; no module's name holds it."""


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
        original_name: the name in the model's first release, from the diffusers name; for a part of a fused module
            that module's name with `#` and the part's number.
    """
    names: dict[str, tuple[LoraTarget, ...]] = {}
    fused: dict[str, dict[int, str]] = {}
    for name in weighted_modules(model):
        original, _, part = original_name(name).partition(PART)
        names[name] = (LoraTarget(name),)
        if part:
            fused.setdefault(original, {})[int(part)] = name
        else:
            names[original] = names[name]
    for original, parts in fused.items():
        names[original] = split_rows(model, [parts[number] for number in sorted(parts)])
    return NameTable(names, {name.replace(".", "_"): targets for name, targets in names.items()})


def split_rows(model: nn.Module, modules: Sequence[str]) -> tuple[LoraTarget, ...]:
    """Targets of a fused module whose rows are those of `modules`, one after another."""
    targets: list[LoraTarget] = []
    start = 0
    for module in modules:
        stop = start + len(model.get_submodule(module).weight)
        targets.append(LoraTarget(module, (start, stop)))
        start = stop
    return tuple(targets)


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
