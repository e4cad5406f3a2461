"""What model files were when they were last seen, kept beside the conditioning cache. Needs no torch.

What an encoder made is found by the identity of its files. Once everything is cached the encoder is not needed, and
its files may be deleted; what it made is then found by what they were.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rushes.wire.base import digest
from rushes_service.models.loading.files.headers import PICKLED, SAFETENSORS
from rushes_service.models.loading.files.variants import unread_in

FILE_HASHES_DIR = "files"
"""Below the directory of the conditioning cache, whose own directories have names of two letters."""

Identity = Any
"""JSON-able: of a file its fingerprint, of a directory name, size and time of its files."""


class FileHashCache:
    """Identities of files and directories by their paths. Several processes may share the directory.

    A file that is there is always looked at; what is known of it counts only once it is gone.

    Args:
        directory: where they are kept; None keeps nothing.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._gone: dict[Path, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be said of files whose place in the cache was found by what they were."""
        return tuple(f"{path} is gone: what is cached was made when it was last seen" for path in self._gone)

    def note(self, path: Path, identity: Identity) -> None:
        """Remember what `path` is; a directory that cannot be written remembers nothing."""
        place = self._place(path)
        if place is None or self._recall(path) == identity:
            return
        temporary = None
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".known-", dir=place.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"path": str(path), "identity": identity}, file)
            Path(temporary).replace(place)
            return
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)

    def gone(self, path: Path) -> Identity | None:
        """What a file that is not there was; None if it was never seen."""
        identity = self._recall(path)
        if identity is not None:
            self._gone[path] = None
        return identity

    def directory(self, directory: Path, root: Path | None = None, variant: str | None = None) -> list[Any]:
        """What a directory is, as `directory_facts`; what it was, if only its weights are gone."""
        found = directory_facts(directory, root, variant)
        noted = directory if variant is None else directory / f".{variant}"  # weights that are gone were others
        known = self._recall(noted)
        if isinstance(known, list) and found != known and only_weights_gone(known, found):
            self._gone[directory] = None
            return known
        self.note(noted, found)
        return found

    def _recall(self, path: Path) -> Identity | None:
        place = self._place(path)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return place and json.loads(place.read_text(encoding="utf-8"))["identity"]
        return None

    def _place(self, path: Path) -> Path | None:
        return self._directory and self._directory / f"{digest(str(path.absolute()), digits=40)}.json"


def directory_facts(directory: Path, root: Path | None = None, variant: str | None = None) -> list[Any]:
    """Content identity of a directory: name (below `root`), size and modification time of its files.

    Weights that are not read when `variant` is asked for do not count.
    """
    others = {directory / name for name in unread_in(directory, variant)}
    files = sorted(file for file in directory.rglob("*") if file.is_file() and file not in others)
    facts = [(file, file.stat()) for file in files]
    return [
        [
            file.relative_to(root or Path("/")).as_posix() if root else str(file.resolve()),
            fact.st_size,
            fact.st_mtime_ns,
        ]
        for file, fact in facts
    ]


def only_weights_gone(known: list[Any], found: list[Any]) -> bool:
    """True if files were deleted and none changed, so that nothing is left that could be loaded in their place."""
    unchanged = all(entry in known for entry in found)
    return unchanged and (not found or (has_weights(known) and not has_weights(found)))


def has_weights(facts: Iterable[Any]) -> bool:
    """True if a directory holds weights."""
    return any(Path(entry[0]).suffix.lower() in (*SAFETENSORS, *PICKLED) for entry in facts)
