"""What is in a file of weights, without a base model: for people who wonder what they have.

It is read as for sampling: the same names, kinds and scales, and the same refusals.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rushes.errors import RushesError
from rushes_service.inspection.norms import norm_of
from rushes_service.lora.changes import Change
from rushes_service.lora.reading.families import family_of
from rushes_service.lora.reading.files import WeightsFile, open_file
from rushes_service.lora.reading.finite import non_finite_keys
from rushes_service.lora.reading.full_checkpoint import is_whole
from rushes_service.lora.reading.grouping import Module, by_module, keys_of
from rushes_service.lora.reading.keys import TEXT_ENCODER, Key
from rushes_service.lora.reading.kinds import Named, alpha, weight_change
from rushes_service.lora.reading.messages import shapes_of
from rushes_service.lora.reading.refused import check_readable
from rushes_service.lora.reading.scales import Scales

BLOCK = re.compile(r"(\w*?)_?blocks?[._](\d+)[._]")


@dataclass
class Inspection:
    """What a file turned out to be. Norms are those of the deltas at strength 1, by block, and over all.

    `refused` is why sampling would refuse the file whatever the model, `non_finite` are keys, `misfits` modules whose
    factors cannot be multiplied, `scale` says where the scale of its modules is from.
    """

    path: str
    bytes: int
    format: str
    kinds: dict[str, int]
    family: str | None
    keys: int
    modules: int
    dtypes: dict[str, int]
    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, int] = field(default_factory=dict)
    blocks: dict[str, float] = field(default_factory=dict)
    norm: float | None = None
    scale: str = ""
    experts: dict[str, int] = field(default_factory=dict)
    refused: str | None = None
    non_finite: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    text_encoder: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    matched: int | None = None
    unmatched: list[str] | None = None

    @property
    def broken(self) -> bool:
        """True if no model can be sampled with the file as it is."""
        return bool(self.refused or self.non_finite or self.misfits or self.unmatched or self.unknown)


def inspect_file(place: Path) -> Inspection:
    """Look into a safetensors file, or an adapter's directory.

    Raises:
        CheckpointError: it is not there, cut short, or no safetensors file.
    """
    file = open_file(place)
    keys = keys_of(file)
    styles = Counter(key.style for key in keys.values() if key.part)
    found = Inspection(
        path=str(place),
        bytes=file.bytes,
        format=styles.most_common(1)[0][0] if styles else "whole weights, no adapter",
        kinds={},
        family=str(family) if (family := family_of(shapes_of(file), file.metadata)) else None,
        keys=len(file.tensors),
        modules=0,
        dtypes=dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in file.tensors.values())),
        unknown=[key for key, parts in keys.items() if not parts.part] if styles else [],
        text_encoder=sum(bool(TEXT_ENCODER.match(key)) for key in keys),
        metadata=dict(file.metadata),
        experts=dict(Counter(str(key.expert) for key in keys.values() if key.expert and not key.text)),
    )
    try:
        check_readable(place, file.tensors, file.metadata, file.statements)
        found.non_finite = non_finite_keys(file)
        if not is_whole(file, keys):
            measure(found, file, keys)
    except RushesError as error:
        found.refused = str(error)
    return found


def measure(found: Inspection, file: WeightsFile, keys: Mapping[str, Key]) -> None:
    """Fill in kinds, ranks, alphas, norms and what does not fit, a module at a time.

    Raises:
        LoraValue: what the file states of its scales contradicts itself, or a module is there twice.
    """
    modules = by_module(file, keys)
    scales = Scales(file.path, file.statements, file.metadata, file.tensors)
    squares: Counter[str] = Counter()
    ranks: Counter[str] = Counter()
    alphas: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for module in modules:
        change = change_of(found, module, scales)
        kinds["unknown" if change is None else kind_of(change)] += 1
        if change is None:
            continue
        if change.rank:
            ranks[str(change.rank)] += 1
            stated = alpha(module.parts) or scales.stated_alpha(module.name, module.expert)
            alphas["none" if stated is None else f"{stated:g}"] += 1
        norm = norm_of(change)
        if norm is not None and math.isfinite(norm):
            squares[block_of(module.name)] += norm**2
    found.modules, found.kinds = len(modules), dict(kinds)
    found.ranks, found.alphas = dict(ranks.most_common()), dict(alphas.most_common())
    found.blocks = {block: math.sqrt(squares[block]) for block in sorted(squares, key=natural)}
    found.norm = math.sqrt(sum(squares.values())) if squares else None
    scales.check()
    found.scale = scales.source


def change_of(found: Inspection, module: Module, scales: Scales) -> Change | None:
    """What becomes of a module's weight; None where the file has a bias alone, or is broken, which is noted."""
    named = Named(module.name, scales, module.expert, pieces_of(module))
    if module.parts.keys() == {"modulation"}:
        return weight_change(named, {"diff": module.parts["modulation"]})
    try:
        change = weight_change(named, module.parts)
    except ValueError as error:
        found.misfits.append(f"{module.name} {error}")
        return None
    if change is None and "diff_b" in module.parts:
        return weight_change(named, {"diff": module.parts["diff_b"]})
    return change


def pieces_of(module: Module) -> tuple[int, ...]:
    """Rows of the pieces of a fused module, going by its name: q, k, v, and in FLUX's single blocks the MLP."""
    if not {"down", "up"} <= module.parts.keys() or module.parts["down"].dim() < 2:
        return ()
    rows, width = len(module.parts["up"]), module.parts["down"].shape[1]
    if module.name.endswith("qkv") and rows % 3 == 0:
        return (rows // 3,) * 3
    return (width, width, width, rows - 3 * width) if module.name.endswith("linear1") and rows > 3 * width else ()


def kind_of(change: Change) -> str:
    """The kind of a module's change."""
    inner = getattr(change, "inner", None)
    return change.kind if inner is None else f"{inner.kind} with DoRA scale"


def block_of(name: str) -> str:
    """The block that a module belongs to, as people call it: `double 3`, `block 7`, or `other`."""
    match = BLOCK.search(name)
    if not match:
        return "other"
    kind = match[1].rpartition(".")[2].removesuffix("transformer").strip("_")
    return f"{kind or 'block'} {int(match[2])}"


def natural(label: str) -> tuple[bool, str, int]:
    """Sorting key: blocks of a kind by number, the rest last."""
    kind, _, number = label.partition(" ")
    return label == "other", kind, int(number or 0)


def lines(found: Inspection) -> Iterator[str]:
    """The inspection for people."""
    yield f"{found.path}  ({found.bytes / 1e6:.2f} MB, {found.keys} tensors, {joined(found.dtypes)})"
    yield f"  format   {found.format}: {joined(found.kinds) or 'no adapter'}"
    yield f"  family   {found.family or 'none that is known'}"
    if found.ranks:
        yield f"  rank     {joined(found.ranks)}"
        yield f"  alpha    {joined(found.alphas)}"
    if found.scale:
        yield f"  scale    {found.scale}"
    if found.experts:
        yield f"  experts  {joined(found.experts)} keys"
    if found.matched is not None:
        yield f"  matched  {found.matched} of {found.modules} modules"
        yield from (f"           not: {name}" for name in (found.unmatched or [])[:10])
    if found.text_encoder:
        yield f"  note     {found.text_encoder} keys train a text encoder; only `--architecture diffusers` merges them"
    if found.unknown:
        yield f"  unknown  {len(found.unknown)} keys: {', '.join(found.unknown[:3])}"
    if found.refused:
        yield f"  REFUSED  {found.refused}"
    yield from (f"  BROKEN   {misfit}" for misfit in found.misfits)
    for key in found.non_finite:
        yield f"  BROKEN   {key} holds NaN or infinity"
    yield from bars(found)
    yield from (f"  {key:<32} {shortened(value)}" for key, value in sorted(found.metadata.items()))


def bars(found: Inspection) -> Iterator[str]:
    """Norm of the delta per block as a picture."""
    if not found.blocks:
        return
    yield f"  where it acts (norm of the delta at strength 1; {found.norm:.4g} over all)"
    highest = max(found.blocks.values()) or 1.0
    for block, norm in found.blocks.items():
        yield f"    {block:<12} {bar(norm / highest):<40} {norm:.4g}"


def bar(share: float, width: int = 40) -> str:
    """A bar of up to `width` characters, in eighths."""
    whole, rest = divmod(round(share * width * 8), 8)
    return "█" * whole + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def joined(counts: Mapping[str, int]) -> str:
    """`32 (x240), 16 (x2)`."""
    return ", ".join(f"{name} (x{count})" for name, count in counts.items())


def shortened(value: str, width: int = 100) -> str:
    """A metadata value on one line."""
    line = " ".join(value.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."
