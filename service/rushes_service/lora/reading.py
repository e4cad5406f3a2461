"""A LoRA file becomes typed deltas, or an error that says what is wrong with it.

Everything is checked before any weight is touched: the file is whole, every key has its module, shapes fit, all
numbers are finite.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rushes.checkpoints import fingerprint, read_header
from rushes.errors import CheckpointFormat, CheckpointMissing, LoraMismatch, LoraValue
from rushes.jobs import Checkpoint
from rushes_service.lora.families import guess_family
from rushes_service.lora.targets import LoraTarget, NameTable

SHOWN_KEYS = 3
"""Keys that a message quotes."""

SUFFIXES = (
    (re.compile(r"(.+)\.lora_down(?:\.default)?\.weight"), "down"),
    (re.compile(r"(.+)\.lora_up(?:\.default)?\.weight"), "up"),
    (re.compile(r"(.+)\.lora_A(?:\.default)?\.weight"), "down"),
    (re.compile(r"(.+)\.lora_B(?:\.default)?\.weight"), "up"),
    (re.compile(r"(.+)\.alpha"), "alpha"),
)

OTHER_KINDS = {"LoHa": ".hada_w", "LoKr": ".lokr_w", "DoRA": "dora_scale", "full difference": ".diff"}
"""Kinds of adapter that are no plain LoRA, and what gives them away in a key."""

PREFIXES = (
    ("lora_unet_", "musubi"),
    ("base_model.model.", "peft"),
    ("diffusion_model.", "comfyui"),
    ("transformer.", "diffusers"),
)
"""How keys begin, and the name of the format that begins them so; anything else is "diffusers" without a prefix."""

SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Delta:
    """`scale * up @ down` is to be added to one module's weight: down [rank, in], up [out, rank], on the CPU."""

    module: str
    down: torch.Tensor
    up: torch.Tensor
    scale: float


@dataclass(frozen=True)
class LoraReport:
    """What a file turned out to be; goes into the receipt."""

    path: str
    sha256: str
    format: str
    matched: int
    unmatched: int
    modules: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Lora:
    """A file that fits its model. `fingerprint` is the hash of its content."""

    fingerprint: str
    deltas: tuple[Delta, ...]
    report: LoraReport


@dataclass
class Factors:
    """Tensors of one module as the file has them."""

    targets: tuple[LoraTarget, ...]
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


def locate(checkpoint: Checkpoint) -> Path:
    """The file of `checkpoint`: its snapshot, else where the trainer wrote it; whole, going by its header.

    Raises:
        CheckpointMissing, CheckpointIncomplete, CheckpointFormat: as `rushes.checkpoints.read_header`.
    """
    places = [Path(place) for place in (checkpoint.path, checkpoint.source) if place]
    for place in places:
        if place.is_file():
            read_header(place)
            return place
    tried = " nor at ".join(str(place) for place in dict.fromkeys(places))
    raise CheckpointMissing(f"no checkpoint at {tried}; was it deleted, or is the directory not mounted here?")


def read_lora(
    path: Path, names: NameTable, shapes: Mapping[str, torch.Size], *, family: str, expected: str | None = None
) -> Lora:
    """Read a complete LoRA file.

    Args:
        names: which module each name means.
        shapes: weight shape of each module of the model, by its diffusers name.
        family: the model's family, for messages.
        expected: content hash that the submitter saw. A file with another one has been overwritten since.

    Raises:
        CheckpointError: the file is not there, cut short, no safetensors file, or not the one submitted.
        LoraMismatch: keys that mean no module of this model.
        LoraValue: wrong shapes, missing halves or non-finite numbers.
    """
    read_header(path)
    sha256 = fingerprint(path)
    if expected is not None and SHA256_HEX.fullmatch(expected) and expected != sha256:
        raise CheckpointMissing(f"{path} was overwritten since it was submitted: another file lies there now")
    tensors = load_tensors(path)
    factors, style = group(path, tensors, names, family)
    deltas = [delta for name, parts in factors.items() for delta in deltas_of(path, name, parts, shapes)]
    ranks = sorted({delta.down.shape[0] for delta in deltas})
    report = LoraReport(str(path), sha256, style, len(tensors), 0, len(deltas), tuple(ranks))
    return Lora(sha256, tuple(deltas), report)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, on the CPU."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointFormat(f"{path}: not a valid safetensors file: {error}") from error


def group(
    path: Path, tensors: Mapping[str, torch.Tensor], names: NameTable, family: str
) -> tuple[dict[str, Factors], str]:
    """Tensors by module, and the file's format; raises `LoraMismatch` unless every key has a module."""
    factors: dict[str, Factors] = {}
    styles: list[str] = []
    unmatched: list[str] = []
    for key, tensor in tensors.items():
        name, part, style = split(key)
        targets = names.find(name, flat=style == "musubi") if part else ()
        if not targets:
            unmatched.append(key)
            continue
        factors.setdefault(name, Factors(targets)).tensors[part] = tensor
        styles.append(style)
    if unmatched or not tensors:
        raise LoraMismatch(mismatch_message(path, unmatched, len(tensors), family))
    return factors, max(set(styles), key=styles.count)


def split(key: str) -> tuple[str, str, str]:
    """Module name, part ("down", "up", "alpha", or "" if it is none of them) and format of one key."""
    name, part = key, ""
    for pattern, kind in SUFFIXES:
        if match := pattern.fullmatch(key):
            name, part = match[1], kind
            break
    style = "diffusers"
    for prefix, prefix_style in PREFIXES:
        if name.startswith(prefix):
            name, style = name[len(prefix) :], prefix_style
            if style != "peft":
                break
    return name, part, style


def mismatch_message(path: Path, unmatched: Sequence[str], total: int, family: str) -> str:
    """Says which keys fit nothing and which family they look like."""
    if total == 0:
        return f"{path}: this file holds no tensors at all"
    shown = ", ".join(unmatched[:SHOWN_KEYS]) + (", ..." if len(unmatched) > SHOWN_KEYS else "")
    message = f"{path}: {len(unmatched)} of {total} keys match no module of {family}: {shown}"
    if other := [kind for kind, sign in OTHER_KINDS.items() if any(sign in key for key in unmatched)]:
        return f"{message}. It is a {other[0]} file; only plain LoRA can be merged so far"
    likely = guess_family(unmatched)
    if likely and likely.lower() not in family.lower():
        message += f". They look like {likely}: was the right architecture given?"
    return message


def deltas_of(path: Path, name: str, factors: Factors, shapes: Mapping[str, torch.Size]) -> list[Delta]:
    """The deltas of one module of the file, checked."""
    tensors = factors.tensors
    for part in ("down", "up"):
        if part not in tensors:
            raise LoraValue(f"{path}: {name} has no {part} matrix; the file is incomplete")
    for part, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise LoraValue(f"{path}: {name} ({part}) holds NaN or infinity; training has most likely diverged")
    down, up = tensors["down"].flatten(1), tensors["up"].flatten(1)
    rank = down.shape[0]
    if up.shape[1] != rank:
        raise LoraValue(f"{path}: {name} has rank {rank} in its down matrix but {up.shape[1]} in its up matrix")
    end = factors.targets[-1].rows
    if end is not None and len(up) != end[1]:
        raise LoraValue(f"{path}: {name} has {len(up)} rows, its fused module {end[1]}; another size of model?")
    scale = float(tensors["alpha"]) / rank if "alpha" in tensors else 1.0
    return [fitted(path, Delta(t.module, down, rows(up, t), scale), shapes[t.module]) for t in factors.targets]


def rows(up: torch.Tensor, target: LoraTarget) -> torch.Tensor:
    """The rows of `up` [out, rank] that belong to `target`."""
    return up if target.rows is None else up[slice(*target.rows)]


def fitted(path: Path, delta: Delta, shape: torch.Size) -> Delta:
    """`delta`, if it has the shape of its module's weight."""
    wanted = (shape[0], shape[1:].numel())
    found = (delta.up.shape[0], delta.down.shape[1])
    if found != wanted:
        raise LoraValue(
            f"{path}: {delta.module} is {list(wanted)} in the model but {list(found)} in the LoRA; "
            "it was trained on a model of another size"
        )
    return delta
