"""Files of a repository on Hugging Face's hub: fetched when they are first needed, and then in its cache."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from rushes.errors import ModelError, first_line
from rushes_service.models.loading.files.variants import unread

logger = logging.getLogger("rushes.worker")

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

PICKLES = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5"]

UNREACHABLE = (OSError, ValueError, *HfHubHTTPError.__bases__)
"""What asking the hub raises. Its bases are the errors of the HTTP library, which is not the same in all versions."""


def download(repo: str, parts: Sequence[str], variant: str | None = None) -> Path:
    """The local snapshot directory of `repo`, with `parts` (files and directories) in it.

    Of weights in several variants those are fetched that are then read. Without the hub, what is cached counts.

    Args:
        variant: the one that is asked for.

    Raises:
        ModelError: the hub cannot be reached and nothing is cached, or there is no such repository.
    """
    wanted = [pattern for part in parts for pattern in (part, f"{part}/*")]
    try:
        others = unread_on_hub(repo, wanted, variant)
        return Path(snapshot_download(repo, allow_patterns=wanted, ignore_patterns=[*PICKLES, *others]))
    except UNREACHABLE as error:
        if (cached := getattr(error, "snapshot_path", None)) is not None:
            # Not all of it is there, but what is missing may be weights that are not read.
            logger.warning("%s: %s", repo, first_line(error))
            return Path(cached)
        raise ModelError(
            f"{repo} is no directory here and could not be fetched from the hub ({first_line(error)}); "
            "give a diffusers directory with --rushes_model, or download the model first"
        ) from error


def unread_on_hub(repo: str, wanted: Sequence[str], variant: str | None) -> list[str]:
    """Patterns of a repository's weights that need not be fetched; none if the hub cannot be asked."""
    return [glob.escape(file) for file in unread_files(files_on_hub(repo) or (), wanted, variant)]


def files_on_hub(repo: str) -> list[str] | None:
    """All files of a repository; None if the hub cannot be asked, for which who fetches them has the reason."""
    try:
        return HfApi().list_repo_files(repo)
    except UNREACHABLE:
        return None


def names_on_hub(repo: str) -> list[str] | None:
    """Their names without directories."""
    files = files_on_hub(repo)
    return files and [PurePosixPath(file).name for file in files]


def unread_files(files: Iterable[str], wanted: Sequence[str], variant: str | None) -> list[str]:
    """Of the files that match `wanted`, the weights that are not read; pickles are not fetched and do not count."""
    names: dict[PurePosixPath, list[str]] = {}
    for path in map(PurePosixPath, files):
        asked = any(fnmatch(str(path), pattern) for pattern in wanted)
        if asked and not any(fnmatch(path.name, pattern) for pattern in PICKLES):
            names.setdefault(path.parent, []).append(path.name)
    return [str(directory / name) for directory, found in names.items() for name in sorted(unread(found, variant))]
