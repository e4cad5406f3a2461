"""What the name of a weights file says of the transformer that it is for.

Wan2.2 has two: one for steps with much noise, one for those with little. Trainers write a file for each, and say which
in its name: `cat_000000250_high_noise`, `cat-HighNoise-000004`, `wan2.2_low_noise_lora`.
"""

from __future__ import annotations

import re
from pathlib import Path

from rushes.wire.models import Expert

EXPERT = re.compile(
    r"(?:(?:^|[-_. ])(?P<word>high|low|HIGH|LOW|High|Low)|(?<=[a-z0-9])(?P<camel>High|Low))"
    r"[-_. ]?(?:noise|Noise|NOISE)(?:[-_. ]?(?:expert|model|transformer))?(?=$|[-_. ]|(?<=e)[A-Z0-9])"
)
"""The expert's name with the word noise, which says that it is one: `low` alone may be a part of any name."""

NUMBERED = re.compile(r"[-_.](?:(?:steps?|epoch|checkpoint)[-_=]?)?\d+$", re.IGNORECASE)

SHORT_EXPERT = re.compile(r"(?:^|[-_. ])(?P<word>high|low|hn|ln)(?:[-_. ]?(?:expert|model))?$", re.IGNORECASE)
"""The same without that word, at the end of a name. For families of which the files are known to be for one expert."""


PARENTS = 2
"""Directories above a file whose names count as well: `high_noise_lora/epoch-4.safetensors` (DiffSynth)."""


def expert_in_name(path: str | Path, *, short: bool = False) -> Expert | None:
    """The expert that a file's or directory's name says it is for; None if it says none, or both.

    Where it says nothing, the names of the directories above count, the nearest first.

    Args:
        short: also read `_high`, `-LN` and the like at the end, or before the number of a step or an epoch.
    """
    place = Path(path)
    for name in (place.stem, *(parent.name for parent in list(place.parents)[:PARENTS])):
        found: set[Expert] = {expert_of(match) for match in EXPERT.finditer(name)}
        if short and not found:
            found = {expert_of(match) for match in SHORT_EXPERT.finditer(NUMBERED.sub("", name))}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def without_expert(name: str, *, short: bool = False) -> tuple[str, Expert | None]:
    """A name without the expert in it, and the expert.

    Args:
        name: without its ending.
        short: also read `_high`, `-LN` and the like at the end.
    """
    match = EXPERT.search(name) or (SHORT_EXPERT.search(name) if short else None)
    if match is None:
        return name, None
    return (name[: match.start()] + name[match.end() :]).strip("-_. "), expert_of(match)


def expert_of(match: re.Match[str]) -> Expert:
    """The expert that a match names."""
    word = next(word for word in match.groupdict().values() if word)
    return "high" if word.lower().startswith("h") else "low"
