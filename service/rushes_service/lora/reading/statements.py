"""How strongly a file's adapters act: every place that states an alpha, and what follows for each module.

A module's product is multiplied by alpha / rank (alpha / sqrt(rank) for rank-stabilised LoRA). Alpha stands in

    the tensors            `NAME.alpha`: kohya's way, always divided by the rank
    adapter_config.json    PEFT's, beside the file; `rushes` keeps it in the snapshot's header
    the header, as JSON    diffusers' `lora_adapter_metadata`, finetrainers' `lora_config`, and others
    the header, bare       `ss_network_alpha`, `network_alpha`, `lora_alpha`, `alpha`

Places that contradict each other are refused with both named; where nobody states an alpha the scale is 1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rushes.checkpoints.adapters import ADAPTER_CONFIG, CONFIG_KEY
from rushes.checkpoints.experts import EXPERTS_KEY
from rushes.errors import CheckpointFormat
from rushes_service.lora.reading.keys import EXPERTS, FIRST_OF_TWO

ALPHAS = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")
RANKS = ("r", "rank", "lora_rank", "lora_r", "lora_dim", "network_rank", "network_dim", "ss_network_dim", "dim")
RANK_STABILISED = ("use_rslora", "rslora", "rs_lora")
PATTERNS = ("rank_pattern", "alpha_pattern")

NO_CONFIGURATION = re.compile(r"ss_|sshs_|modelspec\.|workflow$|prompt$|training_info$|software$")
"""Entries of a header whose JSON is about other things: a dataset's tags may well be called alpha."""

OTHER_MODEL = re.compile(r"text_encoder(?!(_\d)?$)|text_model|vae|unet_2|te\d?$")
"""Configurations of models that nothing is merged into."""

TEXT_ENCODER = re.compile(r"text_encoder(_\d)?")
DENOISER = re.compile(r"(unet|transformer|denoiser|dit|diffusion_model)(_\d)?")
"""Configurations of a text encoder, and of what denoises, which say nothing of each other."""

ADAPTERS_OWN = re.compile(r"lora|adapter|network|peft|lycoris")
"""Where a configuration has such a name, a bare `alpha` in it is that of the adapter."""

DEPTH = 3
"""How deep a configuration is looked for in JSON."""


@dataclass(frozen=True)
class Statement:
    """What one place says. `alpha_pattern` and `rank_pattern` are PEFT's: regular expressions of module names.

    `config` is the whole configuration, for a place that has one; `expert` the transformer or the text encoder it is
    for, None for all. `denoiser` is True for what is said of transformers alone.
    """

    place: str
    alpha: float | None = None
    rank: float | None = None
    rank_stabilised: bool | None = None
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_pattern: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    expert: str | None = None
    denoiser: bool = False

    def alpha_of(self, name: str) -> float | None:
        """Alpha of the module `name`."""
        return by_pattern(self.alpha_pattern, name, self.alpha)

    def rank_of(self, name: str) -> float | None:
        """Rank of the module `name`."""
        return by_pattern(self.rank_pattern, name, self.rank)


def statements(path: Path, metadata: Mapping[str, str]) -> tuple[Statement, ...]:
    """Everything that a file's header says of its adapters' strength.

    Raises:
        CheckpointFormat: a configuration cannot be read, or a number in it is none.
    """
    found = [*in_configurations(path, metadata), *bare(path, metadata)]
    for expert, told in of_experts(metadata):
        found += [
            replace(statement, expert=expert, place=f"{statement.place} of the {expert}-noise file")
            for statement in statements(path, told)
        ]
    return tuple(found)


def of_experts(metadata: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The headers of the two files that `rushes` made one, by expert."""
    if EXPERTS_KEY not in metadata:
        return
    found = json.loads(metadata[EXPERTS_KEY])
    yield from ((expert, {str(key): str(value) for key, value in told.items()}) for expert, told in found.items())


def in_configurations(path: Path, metadata: Mapping[str, str]) -> Iterator[Statement]:
    """Statements of the JSON objects in a header."""
    for key, text in metadata.items():
        own = key in (CONFIG_KEY, "lora_adapter_metadata")
        if key == EXPERTS_KEY:
            continue
        if not own and (NO_CONFIGURATION.match(key) or not text.lstrip("\ufeff \t\r\n").startswith("{")):
            continue
        place = ADAPTER_CONFIG if key == CONFIG_KEY else key
        config = parsed(path, place, text, strict=own)
        if isinstance(config, dict):
            yield from in_configuration(path, place, config, key, DEPTH)


def parsed(path: Path, place: str, text: str, *, strict: bool) -> object:
    """JSON of a configuration; None for what is none, in places that may hold anything."""
    try:
        found = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        if strict:
            raise CheckpointFormat(f"{path}: {place} is no JSON: {error}") from error
        return None
    if strict and not isinstance(found, dict):
        raise CheckpointFormat(f"{path}: {place} is no JSON object")
    return found


def in_configuration(
    path: Path, place: str, config: Mapping[str, Any], name: str, depth: int, expert: str | None = None
) -> Iterator[Statement]:
    """Statements of one JSON object, and of those in it."""
    own, below = unpacked(config)
    if own and (statement := statement_of(path, place, own, name, expert)):
        yield statement
    two = any(name in below for name in FIRST_OF_TWO)
    for inner, values in below.items():
        if depth > 1 and not OTHER_MODEL.search(inner):
            text = TEXT_ENCODER.fullmatch(inner) is not None
            there = inner if text else EXPERTS.get(inner, "high" if two else expert)
            found = in_configuration(path, f"{place} ({inner})", values, f"{name}.{inner}", depth - 1, there)
            if DENOISER.fullmatch(inner):
                found = (replace(statement, denoiser=True) for statement in found)
            yield from found


def unpacked(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A configuration's own entries, and the objects in it; diffusers writes those as `transformer.lora_alpha`."""
    own: dict[str, Any] = {}
    below: dict[str, Any] = {}
    for key, value in config.items():
        model, dot, entry = key.partition(".")
        if dot and entry.isidentifier():
            below.setdefault(model, {})[entry] = value
        elif isinstance(value, dict) and key not in PATTERNS:
            below.setdefault(key, {}).update(value)
        else:
            own[key] = value
    return own, below


def statement_of(path: Path, place: str, config: Mapping[str, Any], name: str, expert: str | None) -> Statement | None:
    """What one configuration says; None if it is not about an adapter."""
    is_peft = "peft_type" in config or name.partition(".")[0] in (CONFIG_KEY, "lora_adapter_metadata")
    alphas = [key for key in ALPHAS if key in config]
    ranks = [key for key in RANKS if key in config]
    named = [key for key in alphas if key != "alpha"]
    about_adapter = is_peft or bool(ADAPTERS_OWN.search(name.lower())) or bool(ranks or named)
    if not about_adapter or not (alphas or ranks or is_peft):
        return None
    alpha = agreed(path, place, config, alphas)
    patterns = [pattern_of(path, place, config, key) for key in PATTERNS]
    return Statement(
        place=place,
        alpha=alpha,
        rank=agreed(path, place, config, ranks),
        rank_stabilised=next((truth(config[key]) for key in RANK_STABILISED if key in config), None),
        rank_pattern=patterns[0],
        alpha_pattern=patterns[1],
        config=config,
        expert=expert,
    )


def agreed(path: Path, place: str, config: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    """The one number that several entries of a configuration give.

    Raises:
        CheckpointFormat: one is no number, or two differ.
    """
    numbers = {key: number(path, place, key, config[key]) for key in keys if config[key] is not None}
    if len(set(numbers.values())) > 1:
        raise CheckpointFormat(f"{path}: {place} says {listed(numbers)}; it is not clear which is meant")
    return next(iter(numbers.values()), None)


def number(path: Path, place: str, key: str, value: object) -> float:
    """A rank or an alpha.

    Raises:
        CheckpointFormat: it is not a number above zero.
    """
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise CheckpointFormat(f"{path}: {key} in {place} is {value!r}, not a number above 0")
    return found


def pattern_of(path: Path, place: str, config: Mapping[str, Any], key: str) -> dict[str, float]:
    """PEFT's numbers for modules whose names fit a pattern."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise CheckpointFormat(f"{path}: {key} in {place} is no JSON object")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise CheckpointFormat(f"{path}: {pattern} of {key} in {place}: {error}") from None
    return {pattern: number(path, place, f"{pattern} of {key}", value) for pattern, value in patterns.items()}


def bare(path: Path, metadata: Mapping[str, str]) -> Iterator[Statement]:
    """Statements of a header's entries that are numbers themselves."""
    rank = {key: value for key in RANKS if (value := spoken(metadata.get(key)) or 0) > 0}
    stabilised = next((truth(metadata[key]) for key in RANK_STABILISED if key in metadata), None)
    stated = False
    for key in ALPHAS:
        value = spoken(metadata.get(key))
        # sd-scripts takes an alpha of 0 for the rank and writes that into the tensors.
        if value is None or (value == 0 and "network" in key):
            continue
        stated = True
        alpha = number(path, "its header", key, value)
        ours = [name for name in rank if name.startswith("ss_") == key.startswith("ss_")] or list(rank)
        yield Statement(key, alpha, agreed(path, "its header", rank, ours), stabilised)
    if rank and not stated:
        yield Statement(listed(rank), None, agreed(path, "its header", rank, list(rank)), stabilised)


def spoken(text: str | None) -> float | None:
    """A number that an entry is; None for `None`, `Dynamic` and other words."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def truth(value: object) -> bool:
    """A switch, as JSON or as text."""
    return value.strip().lower() in ("true", "1", "yes") if isinstance(value, str) else bool(value)


def listed(numbers: Mapping[str, float]) -> str:
    """`lora_alpha 16 and alpha 4`."""
    return " and ".join(f"{key} {value:g}" for key, value in numbers.items())


def by_pattern(patterns: Mapping[str, float], name: str, default: float | None) -> float | None:
    """The value of the first of PEFT's patterns that fits the end of `name`."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return value
    return default
