"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Generator
from pathlib import Path

TEMPORARY = ".*.tmp"
"""Pattern of the names that `replacing` gives; a process that is killed leaves such a file behind."""


@contextlib.contextmanager
def replacing(target: Path, *, ending: str = ".tmp") -> Generator[Path]:
    """A private name beside `target`. What is written to it takes the target's place when the block ends.

    After an exception the private file is removed, and `target` is what it was.

    Args:
        ending: of the private name, for writers that choose a format by it.

    Raises:
        OSError: the file cannot be moved into its place.
    """
    private = target.with_name(f".{target.name}-{secrets.token_hex(4)}{ending}")
    try:
        yield private
        private.replace(target)
    finally:
        with contextlib.suppress(OSError):
            private.unlink()


def make_output_directory(path: str) -> None:
    """Make an output directory, if it is one of this machine and can be made; a worker makes only what lies in it.

    Where it cannot, the directory may still be there for the worker, which says so if it is not.
    """
    if Path(path).is_absolute():  # neither a URL nor a path of another system
        with contextlib.suppress(OSError, ValueError):
            Path(path).mkdir(parents=True, exist_ok=True)


def write_whole(target: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8; makes its directory.

    Raises:
        OSError: the file or its directory cannot be written. `target` is what it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as private:
        private.write_bytes(content.encode() if isinstance(content, str) else content)
