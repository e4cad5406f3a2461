"""The options of a prompt line: the field that each sets, how its value is read, and which one a wrong name means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rushes.families.prompt_options import OPTION_OF_FIELD

RANDOM_SEED = "-1"
"""What other tools write for "draw one"."""

MAX_STEPS = 1000
"""`--s` is clamped to 1..1000, as in the reference."""

MAX_DIGITS = 30
"""Digits read of a number: more than any bound here has, and few enough for `int`."""


def digits(text: str) -> int | None:
    """A whole number that is not negative, else None. Very many digits are cut to a number that is too large."""
    text = text.strip().lstrip("0") or text.strip()[:1]
    return int(text[:MAX_DIGITS]) if text.isdecimal() else None


def positive(text: str) -> int:
    """A whole number above zero."""
    value = digits(text)
    if not value:
        raise ValueError("must be a whole number above 0")
    return value


def steps(text: str) -> int:
    """Denoising steps, clamped to 1..1000."""
    value = digits(text)
    if value is None:
        raise ValueError("must be a whole number")
    return max(1, min(MAX_STEPS, value))


def seed(text: str) -> int | None:
    """A seed, or None (draw one) for -1."""
    if text.strip() == RANDOM_SEED:
        return None
    value = digits(text)
    if value is None or value >= 2**63:
        raise ValueError("must be a whole number from 0 to 2^63-1, or -1 for a random seed")
    return value


def number(text: str) -> float:
    """A plain number that is not negative."""
    if not re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*", text):
        raise ValueError("must be a number, 0 or above")
    return float(text)


def signed_number(text: str) -> float:
    """A plain number of either sign."""
    if not re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", text):
        raise ValueError("must be a number")
    return float(text)


def raw_text(text: str) -> str:
    """Text as it stands behind the one separating blank."""
    return text[1:] if text[:1].isspace() else text


NUMBERS: Mapping[str, Callable[[str], Any]] = {
    "width": positive,
    "height": positive,
    "frame_count": positive,
    "seed": seed,
    "sample_steps": steps,
    "guidance_scale": number,
    "discrete_flow_shift": number,
    "cfg_scale": number,
    "lora_multiplier": signed_number,
    "drift_limit": number,
}
"""Fields that are numbers, and how each is read."""

READ_VALUE: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(OPTION_OF_FIELD, str.strip),
    **NUMBERS,
    "negative_prompt": raw_text,
}
"""How the value of each field is read from the text behind its option; raises `ValueError`."""

REPEATED = frozenset({"control_image_path"})
"""Fields whose option may be given several times."""

FIELD_OF_OPTION: Mapping[str, str] = {option.removeprefix("--"): field for field, option in OPTION_OF_FIELD.items()}
"""The field that each option sets, by the option's name without its dashes."""

OTHER_NAMES: Mapping[str, str] = {
    "frames": "frame_count",
    "num_frames": "frame_count",
    "length": "frame_count",
    "video_length": "frame_count",
    "steps": "sample_steps",
    "num_steps": "sample_steps",
    "infer_steps": "sample_steps",
    "num_inference_steps": "sample_steps",
    "cfg": "cfg_scale",
    "guidance": "guidance_scale",
    "embedded_guidance_scale": "guidance_scale",
    "shift": "discrete_flow_shift",
    "flow_shift": "discrete_flow_shift",
    "neg": "negative_prompt",
    "negative": "negative_prompt",
    "image": "image_path",
    "img": "image_path",
    "start_image": "image_path",
    "end_image": "end_image_path",
    "last_image": "end_image_path",
    "control": "control_video_path",
    "control_video": "control_video_path",
    "control_image": "control_image_path",
    "lora": "lora_multiplier",
    "lora_weight": "lora_multiplier",
    "lora_strength": "lora_multiplier",
    "multiplier": "lora_multiplier",
    "random_seed": "seed",
}
"""What other tools call a field."""

LIKE = 0.75
"""How alike a mistyped name must be, by difflib's ratio, to be taken for another: `widht` is, `fps` is not `f`."""

MIN_TYPED = 4
"""Letters of the shortest name that typing mistakes are looked for in: among shorter ones everything is alike."""


def field_meant(name: str, extra: Iterable[str] = ()) -> str | None:
    """The field that an unknown option or key means: by another tool's name for it, or by one that is almost it.

    Args:
        name: without dashes.
        extra: names of further fields.
    """
    name = name.lower().replace("-", "_")
    fields = {**FIELD_OF_OPTION, **OTHER_NAMES, **{field: field for field in (*OPTION_OF_FIELD, *extra)}}
    if name in fields:
        return fields[name]
    if len(name) < MIN_TYPED:
        return None
    close = difflib.get_close_matches(name, [known for known in fields if len(known) >= MIN_TYPED], n=1, cutoff=LIKE)
    return fields[close[0]] if close else None
