"""A file becomes typed changes of the model's parameters, or an error that says what is wrong with it.

Everything is checked before any weight is touched: the file is whole, it is of this family and of a kind that is read,
every key has its place, shapes fit, all numbers are finite, and what it states of its strength does not contradict
itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rushes.errors import LoraError, LoraMismatch, LoraValue
from rushes.wire.models import Expert
from rushes_service.lora.changes import Patch
from rushes_service.lora.reading.families import another_family
from rushes_service.lora.reading.files import WeightsFile, read_file
from rushes_service.lora.reading.finite import check_finite
from rushes_service.lora.reading.full_checkpoint import is_whole, read_whole
from rushes_service.lora.reading.grouping import grouped, keys_of, tables_for
from rushes_service.lora.reading.keys import Key
from rushes_service.lora.reading.messages import mismatch, missing, shapes_of, whole_mismatch
from rushes_service.lora.reading.patches import bare_patches, patches_of
from rushes_service.lora.reading.refused import check_readable
from rushes_service.lora.reading.scales import Scales
from rushes_service.lora.targets import NameTable


@dataclass(frozen=True)
class LoraReport:
    """What a file turned out to be; goes into the receipt.

    `matched` and `unmatched` count keys, `modules` modules of the live model, `ranks` are the different ones found,
    `scale` says where the scale of its modules is from, `expert` which of Wan2.2's transformers it is for.
    """

    path: str
    sha256: str
    format: str
    kinds: tuple[str, ...]
    matched: int
    unmatched: int
    modules: int
    ranks: tuple[int, ...]
    scale: str = ""
    expert: str | None = None


@dataclass(frozen=True)
class Lora:
    """A file that fits its model. `fingerprint` is the hash of its content."""

    fingerprint: str
    patches: tuple[Patch, ...]
    report: LoraReport
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """The changes in a file, and what is to be said of it."""

    patches: tuple[Patch, ...]
    unmatched: list[str]
    style: str
    problem: str | None
    scale: str = "none is needed"
    warnings: tuple[str, ...] = ()


def read_lora(
    place: Path,
    names: NameTable,
    shapes: Mapping[str, torch.Size],
    *,
    family: str,
    expected: str | None = None,
    allow_partial: bool = False,
    allow_other_family: bool = False,
    expert: Expert | None = None,
    pin: bool = False,
    called: Path | None = None,
) -> Lora:
    """Read a complete file of weights: an adapter of any format, or a whole transformer.

    Args:
        place: a safetensors file, or an adapter's directory.
        names: which module each name means.
        shapes: shape of each parameter of the model, by its diffusers name.
        family: the model's family, which the file must not contradict.
        expected: content hash that the submitter saw. A file with another one has been overwritten since.
        allow_partial: keys that fit nothing are a warning as long as others do.
        allow_other_family: a file that says to be, or looks like one, of another family is a warning.
        expert: the transformer of Wan2.2 that the file is for, where its keys do not say so.
        pin: keep the tensors in page-locked memory.
        called: the file as people know it, for messages.

    Raises:
        CheckpointError: the file is not there, cut short, no safetensors file, or not the one submitted.
        LoraMismatch: keys that mean nothing in this model, another family, another expert, a kind that is not read.
        LoraValue: wrong shapes, missing halves, non-finite numbers, or statements that contradict each other.
    """
    file = read_file(place, expected=expected, pin=pin, called=called)
    if not file.tensors:
        raise LoraMismatch(f"{file.path}: this file holds no tensors at all")
    check_readable(file.path, file.tensors, file.metadata, file.statements)
    check_finite(file)
    other = other_family(file, family)
    try:
        found = contents(file, names, shapes, family, expert)
    except LoraError as error:
        if other is None:
            raise
        raise LoraMismatch(other) from error
    if other and not allow_other_family:
        raise LoraMismatch(found.problem or f"{other}. --allow_other_family merges it all the same")
    if found.problem and not (allow_partial and found.patches):
        raise LoraMismatch(found.problem)
    warnings = [*found.warnings, *([other] if other else [])]
    if found.problem:
        warnings.append(f"partly used: {found.problem}")
    return Lora(file.sha256, found.patches, report_of(file, place, found, expert), tuple(warnings))


def other_family(file: WeightsFile, family: str) -> str | None:
    """Says which family a file is of, if it is not `family`; None if nothing speaks against it."""
    other = another_family(shapes_of(file), file.metadata, family)
    return None if other is None else f"{file.path}: this file is for {other}, not for {family}"


def contents(
    file: WeightsFile, names: NameTable, shapes: Mapping[str, torch.Size], family: str, expert: Expert | None
) -> Contents:
    """The changes in a file, each parameter once."""
    keys = keys_of(file)
    if is_whole(file, keys):
        found = whole(file, names, shapes, family, expert)
    else:
        found = adapter(file, keys, names, shapes, family, expert)
    check_once(file, found.patches)
    return found


def whole(
    file: WeightsFile, names: NameTable, shapes: Mapping[str, torch.Size], family: str, expert: Expert | None
) -> Contents:
    """A whole transformer."""
    table = tables_for(file, names, expert)[None]
    patches, unmatched, style = read_whole(file, table, shapes)
    lost = missing({patch.parameter for patch in patches}, shapes, table)
    return Contents(patches, unmatched, style, whole_mismatch(file, unmatched, lost, family))


def adapter(
    file: WeightsFile,
    keys: Mapping[str, Key],
    names: NameTable,
    shapes: Mapping[str, torch.Size],
    family: str,
    expert: Expert | None,
) -> Contents:
    """LoRA and its relatives."""
    tables: dict[str | None, NameTable] = {**tables_for(file, names, expert)}
    if names.texts is not None and any(key.text for key in keys.values()):
        texts = names.texts()
        tables |= {encoder: table.names for encoder, table in texts.items()}
        shapes = {**shapes, **{name: shape for table in texts.values() for name, shape in table.shapes.items()}}
    found = grouped(file, keys, tables)
    scales = Scales(file.path, file.statements, file.metadata, file.tensors)
    wrapped = (patch for module in found.modules.values() for patch in patches_of(file, module, scales, shapes))
    patches = (*wrapped, *bare_patches(file, found.bare, shapes))
    scales.check()
    problem = mismatch(file, found.unmatched, family, names)
    if found.idle and not patches:
        raise LoraMismatch(idle_message(file, found.idle, keys, names, family))
    warnings = (idle_message(file, found.idle, keys, names, family),) if found.idle else ()
    return Contents(patches, found.unmatched, found.style if patches else "unknown", problem, scales.source, warnings)


def idle_message(file: WeightsFile, idle: list[str], keys: Mapping[str, Key], names: NameTable, family: str) -> str:
    """Says which keys are for a transformer that these samples do not use."""
    experts = sorted({str(keys[key].expert) for key in idle})
    message = f"{file.path}: {len(idle)} of {len(file.tensors)} keys are for the {' and '.join(experts)}-noise expert"
    if not names.experts:
        return f"{message} ({idle[0]}), and {family} has one transformer alone"
    return f"{message}, which these samples are made without; --rushes_experts both samples with both"


def report_of(file: WeightsFile, place: Path, found: Contents, expert: Expert | None) -> LoraReport:
    """What the receipt says."""
    patches = found.patches
    return LoraReport(
        path=str(place),
        sha256=file.sha256,
        format=found.style,
        kinds=tuple(sorted({patch.change.kind for patch in patches})),
        matched=len(file.tensors) - len(found.unmatched),
        unmatched=len(found.unmatched),
        modules=len({patch.parameter.rpartition(".")[0] for patch in patches}),
        ranks=tuple(sorted({rank for patch in patches if (rank := patch.change.rank) is not None})),
        scale=found.scale,
        expert=expert,
    )


def check_once(file: WeightsFile, patches: tuple[Patch, ...]) -> None:
    """Raise `LoraValue` for a parameter that is in the file under two names."""
    for parameter, count in Counter(patch.parameter for patch in patches).items():
        parts = {patch.into for patch in patches if patch.parameter == parameter} if count > 1 else set()
        if count > 1 and (len(parts) < count or None in parts):
            raise LoraValue(f"{file.path}: {parameter} is in it under two names; it is not clear which is meant")


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
        "scale": report.scale,
        **({"expert": report.expert} if report.expert else {}),
        "matched": report.matched,
        "unmatched": report.unmatched,
        "modules": report.modules,
        "ranks": list(report.ranks),
    }
