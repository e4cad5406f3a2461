"""The files that a sample names, besides those of its base model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rushes.wire.jobs import Prompt

PROMPT_FIELDS = ("image_path", "end_image_path", "control_video_path")

Rename = Callable[[str], str]


def prompt_with(prompt: Prompt, name: Rename) -> Prompt:
    """A prompt with `name` applied to the paths of its pictures and clips."""
    given = {field: getattr(prompt, field) for field in PROMPT_FIELDS}
    changes: dict[str, Any] = {field: name(value) for field, value in given.items() if value}
    changes["control_image_path"] = tuple(name(path) for path in prompt.control_image_path)
    return prompt.model_copy(update=changes)
