"""A file becomes typed changes of the model's parameters, or an error that says what is wrong with it.

Everything is checked before any weight is touched: the file is whole, every key has its place, shapes fit, all
numbers are finite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rushes.errors import LoraMismatch, LoraValue
from rushes_service.lora.changes import Change, Difference, Patch, Replacement, as_matrix
from rushes_service.lora.reading.families import guess_family, size_hint
from rushes_service.lora.reading.files import WeightsFile, read_file
from rushes_service.lora.reading.finite import check_finite
from rushes_service.lora.reading.full_checkpoint import is_whole, read_whole
from rushes_service.lora.reading.keys import TEXT_ENCODER, Key, split
from rushes_service.lora.reading.kinds import weight_change
from rushes_service.lora.targets import LoraTarget, NameTable

SHOWN_KEYS = 3
"""Keys that a message quotes."""

ALTERED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""PEFT's initialisations that change the base model too, so that the adapter alone means nothing."""


@dataclass(frozen=True)
class LoraReport:
    """What a file turned out to be; goes into the receipt.

    `matched` and `unmatched` count keys, `modules` modules of the live model, `ranks` are the different ones found.
    """

    path: str
    sha256: str
    format: str
    kinds: tuple[str, ...]
    matched: int
    unmatched: int
    modules: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Lora:
    """A file that fits its model. `fingerprint` is the hash of its content."""

    fingerprint: str
    patches: tuple[Patch, ...]
    report: LoraReport
    warnings: tuple[str, ...] = ()


@dataclass
class Module:
    """Tensors of one module as the file has them."""

    name: str
    targets: tuple[LoraTarget, ...]
    parts: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class Sorted:
    """Keys of a file: by module, those of parameters that no module wraps, and those that mean nothing."""

    modules: dict[str, Module] = field(default_factory=dict)
    bare: dict[str, tuple[str, ...]] = field(default_factory=dict)
    styles: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)

    @property
    def style(self) -> str:
        """The format of most keys."""
        return max(set(self.styles), key=self.styles.count)


def read_lora(
    place: Path,
    names: NameTable,
    shapes: Mapping[str, torch.Size],
    *,
    family: str,
    expected: str | None = None,
    allow_partial: bool = False,
    pin: bool = False,
) -> Lora:
    """Read a complete file of weights: an adapter of any format, or a whole transformer.

    Args:
        place: a safetensors file, or a PEFT adapter's directory.
        names: which module each name means.
        shapes: shape of each parameter of the model, by its diffusers name.
        family: the model's family, for messages.
        expected: content hash that the submitter saw. A file with another one has been overwritten since.
        allow_partial: keys that fit nothing are a warning as long as others do.
        pin: keep the tensors in page-locked memory.

    Raises:
        CheckpointError: the file is not there, cut short, no safetensors file, or not the one submitted.
        LoraMismatch: keys that mean nothing in this model.
        LoraValue: wrong shapes, missing halves or non-finite numbers.
    """
    file = read_file(place, expected=expected, pin=pin)
    if not file.tensors:
        raise LoraMismatch(f"{place}: this file holds no tensors at all")
    check_finite(file)
    keys = {key: split(key) for key in file.tensors}
    if is_whole(file, keys):
        patches, unmatched, style = read_whole(file, names, shapes)
        lost = missing(patches, shapes, names)
        problem = whole_mismatch(file, unmatched, lost, family)
        kinds: tuple[str, ...] = (Replacement.kind,)
        ranks: tuple[int, ...] = ()
    else:
        check_config(file)
        found = sort(file, keys, names)
        wrapped = (patch for module in found.modules.values() for patch in patches_of(file, module, shapes))
        patches = (*wrapped, *bare_patches(file, found.bare, shapes))
        unmatched, style = found.unmatched, found.style if patches else "unknown"
        problem = mismatch(file, unmatched, family)
        kinds, ranks = kinds_of(patches), ranks_of(patches)
    check_once(file, patches)
    if problem and not (allow_partial and patches):
        raise LoraMismatch(problem)
    matched = len(file.tensors) - len(unmatched)
    modules = len({patch.parameter.rpartition(".")[0] for patch in patches})
    report = LoraReport(str(place), file.sha256, style, kinds, matched, len(unmatched), modules, ranks)
    return Lora(file.sha256, patches, report, (f"partly used: {problem}",) if problem else ())


def check_once(file: WeightsFile, patches: tuple[Patch, ...]) -> None:
    """Raise `LoraValue` for a parameter that is in the file under two names."""
    for parameter, count in Counter(patch.parameter for patch in patches).items():
        parts = {patch.into for patch in patches if patch.parameter == parameter} if count > 1 else set()
        if count > 1 and (len(parts) < count or None in parts):
            raise LoraValue(f"{file.path}: {parameter} is in it under two names; it is not clear which is meant")


def check_config(file: WeightsFile) -> None:
    """Raise `LoraMismatch` for an adapter that means nothing without a base model of its own."""
    start = (file.config or {}).get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(ALTERED_BASES):
        raise LoraMismatch(
            f"{file.path}: it was initialised with {start}, which also alters the base model; convert it when saving "
            "(PEFT: path_initial_model_for_weight_conversion)"
        )


def sort(file: WeightsFile, keys: Mapping[str, Key], names: NameTable) -> Sorted:
    """Tensors by module. PEFT also writes modules that were trained as a whole: `name.weight` beside the adapters.

    Raises:
        LoraValue: two keys mean the same part of a module.
    """
    found = Sorted()
    sources: dict[tuple[str, str], str] = {}
    for key, (name, part, style) in keys.items():
        if not part and style == "peft" and (leaf := key.rpartition(".")[2]) in ("weight", "bias"):
            name, part = name.removesuffix(f".{leaf}"), "value" if leaf == "weight" else "value_b"
            name = name.removesuffix(".base_layer")
        targets = names.find(name, flat=style == "musubi") if part and not TEXT_ENCODER.match(key) else ()
        if not targets and (parameters := names.bare(name, part)):
            found.bare[key] = parameters
            found.styles.append(style)
            continue
        if not targets:
            found.unmatched.append(key)
            continue
        # A Tucker decomposition has several parts that are called so; it is refused as a whole.
        if (other := sources.setdefault((name, part), key)) != key and part != "tucker":
            raise LoraValue(f"{file.path}: {other} and {key} are the same; it is not clear which is meant")
        found.modules.setdefault(name, Module(name, targets)).parts[part] = file.tensors[key]
        found.styles.append(style)
    return found


def patches_of(file: WeightsFile, module: Module, shapes: Mapping[str, torch.Size]) -> Iterator[Patch]:
    """The changes of one module of the file, checked against the live model."""
    try:
        changes = {"weight": weight_change(module.name, module.parts, file.config), "bias": bias_change(module, file)}
        for leaf, change in changes.items():
            if change is not None:
                yield from spread(change, leaf, module.targets, shapes)
    except ValueError as error:
        raise LoraValue(f"{file.path}: {module.name} {error}") from None


def bare_patches(
    file: WeightsFile, keys: Mapping[str, tuple[str, ...]], shapes: Mapping[str, torch.Size]
) -> Iterator[Patch]:
    """Differences of parameters that no module wraps."""
    for key, parameters in keys.items():
        change = Difference(as_matrix(file.tensors[key]))
        for parameter in parameters:
            wanted = (shapes[parameter][0], shapes[parameter][1:].numel())
            if change.shape != wanted:
                found = list(file.tensors[key].shape)
                raise LoraValue(f"{file.path}: {key} is {found}, but {parameter} is {list(shapes[parameter])}")
            yield Patch(parameter, change)


def bias_change(module: Module, file: WeightsFile) -> Change | None:
    """What becomes of a module's bias."""
    parts = module.parts
    if "value_b" in parts:
        return Replacement(as_matrix(parts["value_b"]))
    if "diff_b" in parts:
        return Difference(as_matrix(parts["diff_b"]))
    if "up_bias" in parts:
        main = weight_change(module.name, {k: v for k, v in parts.items() if k != "magnitude"}, file.config)
        return Difference(as_matrix(parts["up_bias"]), getattr(main, "scale", 1.0))
    return None


def spread(
    change: Change, leaf: str, targets: tuple[LoraTarget, ...], shapes: Mapping[str, torch.Size]
) -> Iterator[Patch]:
    """A module's change as changes of the parameters it is here.

    Raises:
        ValueError: the shapes do not fit.
    """
    for target in targets:
        wanted = shape_of(targets, target, leaf, shapes)
        if change.shape != wanted:
            raise ValueError(
                f"is {list(wanted)} in the model ({target.module}) but {list(change.shape)} in the file; it was "
                f"trained on a model of another size{size_hint(change.shape, wanted)}"
            )
        part = change if target.rows is None else change.part(*target.rows)
        yield Patch(f"{target.module}.{leaf}", part, target.into)


def shape_of(
    targets: tuple[LoraTarget, ...], target: LoraTarget, leaf: str, shapes: Mapping[str, torch.Size]
) -> tuple[int, int]:
    """Shape that a file's module has if it is for `target`, which may be one part of several."""
    parameter = f"{target.module}.{leaf}"
    if parameter not in shapes:
        raise ValueError(f"has a {leaf} in the file, but {target.module} has none in the model")
    shape = shapes[parameter]
    rows = shape[0] if target.rows is None else max(part.rows[1] for part in targets if part.rows)
    return rows, shape[1:].numel()


def kinds_of(patches: tuple[Patch, ...]) -> tuple[str, ...]:
    """The kinds of change in a file."""
    return tuple(sorted({patch.change.kind for patch in patches}))


def ranks_of(patches: tuple[Patch, ...]) -> tuple[int, ...]:
    """The ranks in a file."""
    return tuple(sorted({rank for patch in patches if (rank := patch.change.rank) is not None}))


def missing(patches: tuple[Patch, ...], shapes: Mapping[str, torch.Size], names: NameTable) -> list[str]:
    """Parameters of the model, or of that expert of it that was trained, that a whole checkpoint does not have."""
    reach = names.reach
    wanted = {name for name in shapes if name in reach or name.rpartition(".")[0] in reach}
    return sorted(wanted - {patch.parameter for patch in patches})


def mismatch(file: WeightsFile, unmatched: list[str], family: str) -> str | None:
    """Says which keys fit nothing and which family they look like; None if all fit."""
    if not unmatched:
        return None
    total = len(file.tensors)
    message = f"{file.path}: {len(unmatched)} of {total} keys match no module of {family}: {quoted(unmatched)}"
    if text := [key for key in unmatched if TEXT_ENCODER.match(key)]:
        message += f". {len(text)} of them train a text encoder, which is not merged"
    if len(text) < len(unmatched):
        message += looks(file, family)
    return f"{message}. --allow_partial_lora samples without them" if len(unmatched) < total else message


def whole_mismatch(file: WeightsFile, unmatched: list[str], lost: list[str], family: str) -> str | None:
    """Says what a whole checkpoint has too many or too few of; None if it is complete."""
    total = len(file.tensors)
    if unmatched:
        return (
            f"{file.path}: {len(unmatched)} of {total} keys match no weight of {family}: {quoted(unmatched)}"
            f"{looks(file, family)}"
        )
    if lost:
        return (
            f"{file.path}: a whole checkpoint, but {len(lost)} weights of {family} are not in it: {quoted(lost)}; is "
            "it one part of several?"
        )
    return None


def looks(file: WeightsFile, family: str) -> str:
    """What to say about the family that a file seems to be of."""
    guess = guess_family({key: tuple(tensor.shape) for key, tensor in file.tensors.items()})
    if guess is None or guess.fits(family):
        return ""
    return f". This file looks like {guess}: was the right architecture given?"


def quoted(keys: list[str]) -> str:
    """The first keys of a list."""
    return ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")


def facts_of(lora: Lora, strength: float) -> dict[str, Any]:
    """What the receipt says about one file."""
    report = lora.report
    return {
        "fingerprint": lora.fingerprint,
        "strength": strength,
        "path": report.path,
        "sha256": report.sha256,
        "format": report.format,
        "kinds": list(report.kinds),
        "matched": report.matched,
        "unmatched": report.unmatched,
        "modules": report.modules,
        "ranks": list(report.ranks),
    }
