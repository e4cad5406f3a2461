"""Which part of the live model a name in a file means.

Trainers name modules as the model's first release did (`blocks.0.self_attn.q`), diffusers in its own way
(`blocks.0.attn1.to_q`). A family states the rule from the second to the first; the table is then read off the
live model, so that it holds exactly the modules that exist.

Where one original module is several here (`img_attn_qkv` is `to_q`, `to_k` and `to_v`), the rule numbers the parts:
`double_blocks.0.img_attn_qkv#0`, `#1`, `#2`, in the order of the original's rows. `#swapped` marks a module whose
halves (shift and scale) diffusers keeps in the other order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from rushes.wire.models import Expert
from rushes_service.lora.spellings import comfyui_name, fused_names

PART = "#"
"""Between the name of a fused module and the number of its part; no module's name holds it."""

SWAPPED = "swapped"

COMPILED = "_orig_mod."
"""What `torch.compile` puts into the names of the modules it wraps."""


@dataclass(frozen=True)
class LoraTarget:
    """A module of the live model, by its diffusers name, that a delta is added to.

    `rows` is the part of the file's `up` matrix that belongs to it, for a file whose module is several modules here
    (a fused q, k, v); None takes all. `into` is the part of the module's own rows that they go to, for halves that
    diffusers keeps in another order (scale and shift of a last layer); None is all of them.
    """

    module: str
    rows: tuple[int, int] | None = None
    into: tuple[int, int] | None = None


class TextTable(NamedTuple):
    """What modules of a text encoder are called in files, and the shapes of its parameters.

    Modules and parameters have the encoder's name before their own (see `in_encoder`).
    """

    names: NameTable
    shapes: Mapping[str, torch.Size]


@dataclass(frozen=True)
class NameTable:
    """Module names as files write them, and the live modules they mean.

    `dotted` holds original and diffusers names, `flat` the same with underscores for dots, as musubi-tuner and
    kohya write them. `parameters` holds parameters that no module wraps (Wan's `modulation`), by the same names.
    `aliases` are other tools' names (see `spellings`). `experts` are the tables of the transformers of a model that has
    several, for files that are for one of them. `texts` gives those of the text encoders, by the name that keys have
    for each; it is asked only for files with such keys, and None for models whose text encoders stay as they are.
    """

    dotted: Mapping[str, tuple[LoraTarget, ...]]
    flat: Mapping[str, tuple[LoraTarget, ...]]
    parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    experts: Mapping[Expert, NameTable] = field(default_factory=dict)
    aliases: Mapping[str, tuple[LoraTarget, ...]] = field(default_factory=dict)
    texts: Callable[[], Mapping[str, TextTable]] | None = None

    def bare(self, name: str, part: str) -> tuple[str, ...]:
        """Parameters without a module that a difference is for; Wan's `modulation` goes by its block's name, too."""
        if part == "modulation":
            return self.parameters.get(f"{name}.modulation", ())
        return self.parameters.get(name, ()) if part == "diff" else ()

    @property
    def reach(self) -> set[str]:
        """Modules and bare parameters of the live model that some name means."""
        modules = {target.module for targets in self.dotted.values() for target in targets}
        return modules.union(*self.parameters.values())

    def named(self, name: str) -> tuple[LoraTarget, ...]:
        """Targets of a dotted name as it is written."""
        return self.dotted.get(name) or self.aliases.get(name, ())

    def find(self, name: str, *, flat: bool) -> tuple[LoraTarget, ...]:
        """Targets of a name; empty if the model has no such module.

        Converters that turn underscores back into dots guess, and often wrongly (`attn.to.q`): a dotted name that is
        unknown is therefore looked up without its dots as well.
        """
        if not flat and (targets := self.named(name)):
            return targets
        return self.flat.get(name.replace(".", "_"), ())


def name_table(model: nn.Module, original_name: Callable[[str], str]) -> NameTable:
    """The table of everything in `model` that has weights.

    Args:
        original_name: the name in the model's first release, from the diffusers name; for a part of a fused module
            that module's name with `#` and the part's number.
    """
    names: dict[str, tuple[LoraTarget, ...]] = {}
    fused: dict[str, dict[int, str]] = {}
    for name in weighted_modules(model):
        original, _, part = original_name(name).partition(PART)
        names[name] = (LoraTarget(name),)
        if part == SWAPPED:
            names[original] = swapped_halves(model, name)
        elif part:
            fused.setdefault(original, {})[int(part)] = name
        else:
            names[original] = names[name]
    for original, parts in fused.items():
        names[original] = split_rows(model, [parts[number] for number in sorted(parts)])
    aliases = {name: targets for name, targets in other_spellings(model, names) if name not in names}
    flat = {name.replace(".", "_"): targets for name, targets in {**aliases, **names}.items()}
    bare = {called: (name,) for name in bare_parameters(model) for called in (name, original_name(name))}
    return NameTable(names, flat, bare, aliases=aliases)


def other_spellings(
    model: nn.Module, names: Mapping[str, tuple[LoraTarget, ...]]
) -> Iterator[tuple[str, tuple[LoraTarget, ...]]]:
    """What other tools call modules, and the live modules meant."""
    for name, targets in names.items():
        if other := comfyui_name(name):
            yield other, targets
    for name, parts in fused_names(names):
        pieces = [target for part in parts for target in names[part]]
        if len(pieces) == len(parts) and all(target.rows is None for target in pieces):
            yield name, split_rows(model, [target.module for target in pieces])


def split_rows(model: nn.Module, modules: Sequence[str]) -> tuple[LoraTarget, ...]:
    """Targets of a fused module whose rows are those of `modules`, one after another."""
    targets: list[LoraTarget] = []
    start = 0
    for module in modules:
        stop = start + len(model.get_submodule(module).weight)
        targets.append(LoraTarget(module, (start, stop)))
        start = stop
    return tuple(targets)


def swapped_halves(model: nn.Module, module: str) -> tuple[LoraTarget, ...]:
    """Targets of a module whose first half of rows is the second one here, and the other way round."""
    rows = len(model.get_submodule(module).weight)
    half = rows // 2
    return (LoraTarget(module, (0, half), (half, rows)), LoraTarget(module, (half, rows), (0, half)))


def weighted_modules(model: nn.Module) -> Iterator[str]:
    """Names of the modules that have a weight of their own: linears, convolutions, norms, embeddings."""
    return (
        plain_name(name)
        for name, module in model.named_modules()
        if name and any(own == "weight" for own, _ in module.named_parameters(recurse=False))
    )


def bare_parameters(model: nn.Module) -> Iterable[str]:
    """Names of the parameters that are neither a weight nor a bias."""
    names = (plain_name(name) for name, _ in model.named_parameters())
    return (name for name in names if name.rpartition(".")[2] not in ("weight", "bias"))


def plain_name(name: str) -> str:
    """A module's or parameter's name without what compiling put into it."""
    return name.replace(COMPILED, "")


def renamed(name: str, rules: Sequence[tuple[re.Pattern[str], str]]) -> str:
    """`name` after the first rule that matches it whole; unchanged if none does."""
    for pattern, replacement in rules:
        if match := pattern.fullmatch(name):
            return match.expand(replacement)
    return name
