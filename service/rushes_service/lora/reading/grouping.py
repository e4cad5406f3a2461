"""The keys of a file by module: what the model calls it, which tensors the file has for it, what has no place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from rushes.errors import LoraMismatch, LoraValue
from rushes.wire.models import Expert
from rushes_service.lora.reading.files import WeightsFile
from rushes_service.lora.reading.keys import FIRST_OF_TWO, TEXT_ENCODER, Key, split
from rushes_service.lora.targets import LoraTarget, NameTable


@dataclass
class Module:
    """Tensors of one module as the file has them, and the modules of the model that they are for."""

    name: str
    targets: tuple[LoraTarget, ...] = ()
    expert: str | None = None
    parts: dict[str, torch.Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of the pieces that a fused module is here."""
        return tuple(target.rows[1] - target.rows[0] for target in self.targets if target.rows and not target.into)


@dataclass
class Grouped:
    """Keys of a file: by module, those of parameters that no module wraps, and those that mean nothing.

    `idle` are those of an expert that this model does not use.
    """

    modules: dict[tuple[str, str | None], Module] = field(default_factory=dict)
    bare: dict[str, tuple[str, ...]] = field(default_factory=dict)
    styles: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)

    @property
    def style(self) -> str:
        """The format of most keys."""
        return max(set(self.styles), key=self.styles.count) if self.styles else "unknown"


def keys_of(file: WeightsFile) -> dict[str, Key]:
    """Every key taken apart.

    Where a file has both of Wan2.2's transformers under diffusers' names, the first is the one for much noise. PEFT
    also writes modules that were trained as a whole: `name.weight` beside the adapters.
    """
    found = {key: split(key) for key in file.tensors}
    components = {component for key in found for component in key.split(".")[:3]}
    if components & set(FIRST_OF_TWO):
        found = {key: parts if parts.expert else parts._replace(expert="high") for key, parts in found.items()}
    for key, parts in found.items():
        leaf = key.rpartition(".")[2]
        if not parts.part and parts.style == "peft" and leaf in ("weight", "bias"):
            name = parts.name.removesuffix(f".{leaf}").removesuffix(".base_layer")
            found[key] = parts._replace(name=name, part="value" if leaf == "weight" else "value_b")
    return found


def grouped(file: WeightsFile, keys: Mapping[str, Key], tables: Mapping[str | None, NameTable]) -> Grouped:
    """Tensors by module.

    Args:
        tables: which module each name means, by the part of the model that the key names. Keys of an expert without
            a table are idle; those of a text encoder without one mean nothing.

    Raises:
        LoraValue: two keys mean the same part of a module.
    """
    found = Grouped()
    for key, parts in keys.items():
        expert = parts.expert
        if expert is not None and expert not in tables:
            (found.unmatched if parts.text else found.idle).append(key)
            continue
        name, targets, parameters = place_of(key, parts, tables[expert])
        if targets:
            module = found.modules.setdefault((name, expert), Module(name, targets, expert))
            add(file, module, parts.part, key)
        elif parameters:
            found.bare[key] = parameters
        else:
            found.unmatched.append(key)
            continue
        found.styles.append(parts.style)
    return found


def place_of(key: str, parts: Key, names: NameTable) -> tuple[str, tuple[LoraTarget, ...], tuple[str, ...]]:
    """What the model calls a key's module: the name that fits, its modules, or its parameters without a module."""
    if parts.part and (parts.text or not TEXT_ENCODER.match(key)):
        for name in parts.names:
            if targets := names.find(name, flat=parts.flat):
                return name, targets, ()
            if parameters := names.bare(name, parts.part):
                return name, (), parameters
    return parts.name, (), ()


def by_module(file: WeightsFile, keys: Mapping[str, Key]) -> list[Module]:
    """Tensors by module, without a model to look modules up in.

    Raises:
        LoraValue: two keys mean the same part of a module.
    """
    found: dict[tuple[str, str | None], Module] = {}
    for key, parts in keys.items():
        if parts.part:
            module = found.setdefault((parts.name, parts.expert), Module(parts.name, expert=parts.expert))
            add(file, module, parts.part, key)
    return list(found.values())


def add(file: WeightsFile, module: Module, part: str, key: str) -> None:
    """Give a module one of its tensors."""
    # A Tucker decomposition has several parts that are called so; it is refused as a whole.
    if part in module.parts and part != "tucker":
        raise LoraValue(f"{file.path}: {module.keys[part]} and {key} are the same; it is not clear which is meant")
    module.parts[part] = file.tensors[key]
    module.keys[part] = key


def tables_for(file: WeightsFile, names: NameTable, expert: Expert | None) -> dict[Expert | None, NameTable]:
    """Where the keys of each expert are looked up; those that name none go to `expert`, or to all that were trained.

    Raises:
        LoraMismatch: the file is for an expert that this model does not use.
    """
    experts = names.experts
    if not experts:
        return {None: names}
    if expert is None:
        return {None: names, **experts}
    if expert not in experts:
        noise = {"high": "much", "low": "little"}
        raise LoraMismatch(
            f"{file.path}: this LoRA is for the expert for {noise[expert]} noise ({expert}), and these samples are "
            f"made without it (by {' and '.join(experts)} alone); --rushes_experts both samples with both, "
            f"--rushes_experts {expert} with this one"
        )
    return {None: experts[expert], **experts}
