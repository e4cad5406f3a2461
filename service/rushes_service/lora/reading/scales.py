"""What a file's configuration says of its adapters' strength: PEFT's `adapter_config.json`, or diffusers' metadata.

No torch here: looking at a file must not load it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rushes.checkpoints.adapters import ADAPTER_CONFIG, CONFIG_KEY
from rushes.errors import CheckpointFormat

Config = Mapping[str, Any]

SOURCES = ((CONFIG_KEY, ""), ("lora_adapter_metadata", "transformer."))
"""Keys of a file's metadata that hold a configuration, and what is before the transformer's entries in it."""

NUMBERS = ("r", "lora_alpha", "alpha")
PATTERNS = ("rank_pattern", "alpha_pattern")


def configuration(place: Path, metadata: Mapping[str, str]) -> Config | None:
    """The adapter's configuration, from PEFT or from diffusers; None if there is none.

    Raises:
        CheckpointFormat: it cannot be read.
    """
    for key, prefix in SOURCES:
        if key in metadata:
            try:
                found = json.loads(metadata[key])
            except (ValueError, RecursionError) as error:
                raise CheckpointFormat(f"{place}: {key} ({ADAPTER_CONFIG}) is no JSON: {error}") from error
            if not isinstance(found, dict):
                raise CheckpointFormat(f"{place}: {key} ({ADAPTER_CONFIG}) is no JSON object")
            config = {name[len(prefix) :]: value for name, value in found.items() if name.startswith(prefix)}
            check_numbers(place, config)
            return config
    return None


def check_numbers(place: Path, config: Config) -> None:
    """Raise `CheckpointFormat` for a rank or an alpha that is none."""
    named = {key: config.get(key) for key in NUMBERS}
    for key in PATTERNS:
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict):
            raise CheckpointFormat(f"{place}: {key} in {ADAPTER_CONFIG} is no JSON object")
        for pattern, value in patterns.items():
            named[f"{pattern} of {key}"] = value
            try:
                re.compile(pattern)
            except re.error as error:
                raise CheckpointFormat(f"{place}: {pattern} of {key} in {ADAPTER_CONFIG}: {error}") from None
    for key, value in named.items():
        if not isinstance(value, int | float | None):
            raise CheckpointFormat(f"{place}: {key} in {ADAPTER_CONFIG} is {value!r}, not a number")


def configured_alpha(config: Config, name: str) -> float | None:
    """Alpha of the module `name`; None if nobody says."""
    alpha = by_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha", config.get("alpha")))
    return None if alpha is None else float(alpha)


def configured_rank(config: Config, name: str) -> int:
    """Rank that the module `name` was made with, for changes that do not show it."""
    return int(by_pattern(config.get("rank_pattern"), name, config.get("r", 1)))


def configured_scale(config: Config, name: str, rank: int) -> float:
    """What the product of factors of `rank` is multiplied by."""
    alpha = configured_alpha(config, name)
    if alpha is None:
        return 1.0
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def by_pattern(patterns: Any, name: str, default: Any) -> Any:
    """The value of the first of PEFT's patterns that fits the end of `name`."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return value
    return default
