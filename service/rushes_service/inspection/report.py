"""What is in a LoRA file, without a model and without torch: for people who wonder what they have."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rushes.checkpoints.adapters import CONFIG_KEY, WEIGHTS_NAME, adapter_config
from rushes.checkpoints.snapshots import HEADER_LENGTH_BYTES, read_header
from rushes_service.inspection.norms import alpha_of, arrays_of, fit, norm_of, rank_of
from rushes_service.lora.reading.families import guess_family
from rushes_service.lora.reading.keys import TEXT_ENCODER, split, unwrapped
from rushes_service.lora.reading.scales import Config, configuration

KIND_SIGNS = (("hada_w", "LoHa"), ("lokr_w", "LoKr"), ("down", "LoRA"), ("up", "LoRA"), ("diff", "difference"))
"""Parts of a module that give its kind away."""

BLOCK = re.compile(r"(\w*?)_?blocks?[._](\d+)[._]")


@dataclass
class Inspection:
    """What a file turned out to be. Norms are those of the deltas at strength 1, by block, and over all.

    `non_finite` are keys, `misfits` modules whose factors cannot be multiplied.
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
    non_finite: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    text_encoder: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    matched: int | None = None
    unmatched: list[str] | None = None


def inspect_file(place: Path) -> Inspection:
    """Look into a safetensors file, or a PEFT adapter's directory.

    Raises:
        CheckpointError: it is not there, cut short, or no safetensors file.
    """
    told = {CONFIG_KEY: adapter_config(place)} if place.is_dir() else {}
    path = place / WEIGHTS_NAME if place.is_dir() else place
    header = read_header(path)
    metadata = {key: str(value) for key, value in (header.pop("__metadata__", None) or {}).items()} | told
    modules = by_module(header)
    shapes = {unwrapped(key): tuple(entry["shape"]) for key, entry in header.items()}
    styles = Counter(split(key).style for key in header if split(key).part)
    found = Inspection(
        path=str(place),
        bytes=path.stat().st_size,
        format=styles.most_common(1)[0][0] if styles else "whole weights, no adapter",
        kinds=dict(Counter(kind_of(parts) for parts in modules.values())),
        family=str(guess) if (guess := guess_family(shapes)) else None,
        keys=len(header),
        modules=len(modules),
        dtypes=dict(Counter(entry["dtype"] for entry in header.values())),
        unknown=[key for key in header if not split(key).part] if styles else [],
        text_encoder=sum(bool(TEXT_ENCODER.match(key)) for key in header),
        metadata=metadata,
    )
    measure(found, path, header, modules, configuration(place, metadata))
    return found


def by_module(header: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Keys of each module, by part."""
    modules: dict[str, dict[str, str]] = {}
    for key in header:
        name, part, _ = split(key)
        if part:
            modules.setdefault(name, {})[part] = key
    return modules


def kind_of(parts: Mapping[str, str]) -> str:
    """The kind of a module's change."""
    kind = next((kind for sign, kind in KIND_SIGNS if any(part.startswith(sign) for part in parts)), "unknown")
    return f"{kind} with DoRA scale" if "magnitude" in parts else kind


def measure(
    found: Inspection,
    path: Path,
    header: Mapping[str, Any],
    modules: Mapping[str, Mapping[str, str]],
    config: Config | None,
) -> None:
    """Fill in ranks, alphas, norms and what is not finite. Reads the file once, a module at a time."""
    squares: Counter[str] = Counter()
    ranks: Counter[str] = Counter()
    alphas: Counter[str] = Counter()
    with path.open("rb") as file:
        start = HEADER_LENGTH_BYTES + int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
    raw = np.memmap(path, np.uint8, "r", offset=start) if path.stat().st_size > start else np.empty(0, np.uint8)
    for name, parts in modules.items():
        arrays = arrays_of(path, raw, {part: (key, header[key]) for part, key in parts.items()})
        found.non_finite += [parts[part] for part, values in arrays.items() if not np.isfinite(values).all()]
        rank = rank_of(arrays)
        alpha = alpha_of(arrays, name, config)
        if rank:
            ranks[str(rank)] += 1
            alphas["none" if alpha is None else f"{alpha:g}"] += 1
        if not fit(arrays):
            found.misfits.append(name)
            continue
        norm = norm_of(arrays, name, config)
        if norm is not None and math.isfinite(norm):
            squares[block_of(name)] += norm**2
    found.ranks, found.alphas = sorted_counts(ranks), sorted_counts(alphas)
    found.blocks = {block: math.sqrt(squares[block]) for block in sorted(squares, key=natural)}
    found.norm = math.sqrt(sum(squares.values())) if squares else None


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


def sorted_counts(counts: Counter[str]) -> dict[str, int]:
    """Counts, the most frequent first."""
    return dict(counts.most_common())


def lines(found: Inspection) -> Iterator[str]:
    """The inspection for people."""
    yield f"{found.path}  ({found.bytes / 1e6:.2f} MB, {found.keys} tensors, {joined(found.dtypes)})"
    yield f"  format   {found.format}: {joined(found.kinds) or 'no adapter'}"
    yield f"  family   {found.family or 'none that is known'}"
    if found.ranks:
        yield f"  rank     {joined(found.ranks)}"
        yield f"  alpha    {joined(found.alphas)}"
    if found.matched is not None:
        yield f"  matched  {found.matched} of {found.modules} modules"
        yield from (f"           not: {name}" for name in (found.unmatched or [])[:10])
    if found.text_encoder:
        yield f"  note     {found.text_encoder} keys train a text encoder; they are not merged"
    if found.unknown:
        yield f"  unknown  {len(found.unknown)} keys: {', '.join(found.unknown[:3])}"
    for name in found.misfits:
        yield f"  BROKEN   {name} has factors that do not fit each other, or not all of them"
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
