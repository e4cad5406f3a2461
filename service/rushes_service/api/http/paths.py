"""Resolves files named in requests: follows symbolic links and refuses paths outside the configured roots."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rushes_service.api.http.problems import invalid

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""`owner/name`, as the Hugging Face hub names models."""


class Roots:
    """The directories that files named in a request must lie under.

    A relative path is looked up below each root in turn; if it exists nowhere, it is resolved below the first.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(root.resolve() for root in roots)

    @property
    def first(self) -> Path:
        """Root of relative paths, and default output directory."""
        return self.roots[0]

    def resolve(self, text: str, field: str) -> str:
        """The real path of `text`, given in `field` of a request.

        Raises:
            RequestValidationError: it lies outside the roots once links are followed, or is not a path.
        """
        if "://" in text:
            raise invalid(field, f"{text} is an address, not a path: download it below one of the roots first")
        try:
            candidates = [(root / text).resolve() for root in self.roots]
            found = next((path for path in candidates if self.holds(path) and path.exists()), candidates[0])
        except (OSError, ValueError, RuntimeError) as error:
            raise invalid(field, f"{text!r} is not a usable path: {error}") from None
        if not self.holds(found):
            known = ", ".join(map(str, self.roots))
            raise invalid(
                field, f"{text} lies outside the directories that requests may name ({known}): see RUSHES_ROOTS"
            )
        return str(found)

    def resolve_model(self, text: str, field: str) -> str:
        """Like `resolve` for a base model, which may also be a hub id (`owner/name`)."""
        if HUB_ID.fullmatch(text) and not any((root / text).exists() for root in self.roots):
            return text
        return self.resolve(text, field)

    def holds(self, path: Path) -> bool:
        """True when a resolved path lies under a root."""
        return any(path.is_relative_to(root) for root in self.roots)
