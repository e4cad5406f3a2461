"""Building blocks of naming rules: what a first release called a parameter, told from its name in the live model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rushes_service.lora.targets import renamed
from rushes_service.models.loading.files.naming import Rule

Replacement = str | Callable[[re.Match[str]], str]

RuleOfConfig = Callable[[Mapping[str, Any]], Rule]
"""A naming rule that may depend on the model's configuration (the number of blocks on a level)."""


def renaming(table: Sequence[tuple[re.Pattern[str], str]]) -> RuleOfConfig:
    """The rule of a table of modules, as `lora.targets.renamed` applies it, whatever the configuration."""
    return lambda _config: lambda name: renamed(name, table)


def unchanged(_config: Mapping[str, Any]) -> Rule:
    """The rule of files that name everything as the live model does."""
    return lambda name: name


def substituted(pairs: Sequence[tuple[str, Replacement]]) -> Rule:
    """A rule that puts every pattern's replacement into a name, one after another."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in pairs]

    def rule(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return rule
