"""What went wrong in one process, told to another."""

from __future__ import annotations

from rushes import errors
from rushes.errors import InputError, OutOfMemory, WorkerUnfit, first_line

Trouble = tuple[str, str]
"""The name of an error's class, and its message."""


def trouble_of(error: BaseException) -> Trouble:
    """What is told of an error."""
    return type(error).__name__, first_line(error)


def told(trouble: Trouble, where: str) -> Exception:
    """The error for a sample that another process could not prepare: its own one if that process can go on."""
    name, message = trouble
    kind = getattr(errors, name, WorkerUnfit)
    if issubclass(kind, (InputError, OutOfMemory)):
        return kind(f"{message} ({where})")
    return WorkerUnfit(f"{where} cannot follow: {message}")


def goes_on(error: BaseException) -> bool:
    """True if a process can prepare another sample after `error`."""
    return isinstance(error, (InputError, OutOfMemory))
