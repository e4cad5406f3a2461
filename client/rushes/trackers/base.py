"""What all trackers share: their protocol, their keys, and what is shown of a result."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rushes.errors import ConfigError
from rushes.wire.results import SampleResult

logger = logging.getLogger("rushes")

VIDEO = "video/mp4"


@runtime_checkable
class Tracker(Protocol):
    """Shows results. `log` may be called for any result, in any order; one without a picture is left out."""

    def log(self, result: SampleResult) -> None:
        """Show a result at its step."""
        ...

    def close(self) -> None:
        """Write what is still held back, and let go of what this tracker has opened itself."""
        ...


def key_of(result: SampleResult) -> str:
    """`sample_0`, `sample_1`, …: one key per prompt, as trainers themselves name them; `sample_0_draft` of drafts."""
    return f"sample_{result.prompt_index}{draft_suffix(result)}"


def draft_suffix(result: SampleResult) -> str:
    """Ends the keys of drafts, whose numbers are not to be compared with those of exact samples."""
    return "" if result.draft is None else "_draft"


def numbers_of(result: SampleResult) -> dict[str, float]:
    """Numbers of a result by name: `drift_0`, `drift_pixels_0`, `drifted_0` (a control beyond its limit), `clip_0`."""
    index, drift = f"{result.prompt_index}{draft_suffix(result)}", result.drift
    found: dict[str, float] = {f"{name}_{index}": value for name, value in result.scores.items()}
    if drift is not None and drift.latents is not None:
        found[f"drift_{index}"] = drift.latents
    if drift is not None and drift.pixels is not None:
        found[f"drift_pixels_{index}"] = drift.pixels
    if result.prompt.drift_limit is not None:
        found[f"drifted_{index}"] = float("drifted" in result.health)
    return found


def caption_of(result: SampleResult) -> str:
    """What is written under a picture: the prompt and its seed."""
    seed = "" if result.seed is None else f" (seed {result.seed})"
    return f"{'draft: ' if result.draft is not None else ''}{result.prompt.prompt}{seed}"


def media_of(result: SampleResult) -> Path | None:
    """The picture or clip of a result; None, and a warning, when there is nothing to show."""
    if result.path is None:
        return None
    path = Path(result.path)
    if path.is_file():
        return path
    logger.warning("rushes: %s is not on this machine; sample %s is not shown in a tracker", path, result.id[:10])
    return None


def needed(module: str, install: str) -> Any:
    """A tracker's own package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"this tracker needs the package {error.name}: pip install {install}") from None
