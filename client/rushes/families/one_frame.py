"""What `--of` says: how FramePack makes one picture from others.

Comma-separated: `target_index=5,control_index=0;10,no_2x,no_4x,no_post`. Indices are places in time, in latent
frames. As musubi-tuner's, but what it drops without a word is an error here.
"""

from __future__ import annotations

from dataclasses import dataclass

from rushes.errors import PromptError

KNOWN = "target_index=N, control_index=N;N, no_2x, no_4x, no_post"


@dataclass(frozen=True)
class OneFrame:
    """Options of one picture. `target_index` None is the end of the section that FramePack would make.

    Each of `no_2x`, `no_4x` and `no_post` leaves out a part of the (empty) history that the model would be shown.
    """

    target_index: int | None = None
    control_index: tuple[int, ...] = ()
    no_2x: bool = False
    no_4x: bool = False
    no_post: bool = False


def parse_one_frame(text: str | None) -> OneFrame:
    """The options in `text`; None or nothing are the defaults.

    Raises:
        PromptError: an option is unknown, given twice or malformed.
    """
    found: dict[str, int | tuple[int, ...] | bool] = {}
    for part in (text or "").split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name and not equals:
            continue
        if name in found:
            raise PromptError(f"--of: {name} is given twice", key="one_frame")
        if name in ("no_2x", "no_4x", "no_post") and not equals:
            found[name] = True
        elif name == "target_index":
            found[name] = index(name, value)
        elif name == "control_index":
            found[name] = tuple(index(name, item.strip()) for item in value.split(";"))
        else:
            raise PromptError(f"--of: {part.strip()!r} is no option; known: {KNOWN}", key="one_frame")
    return OneFrame(**found)  # type: ignore[arg-type]  # each name has its own type


def index(name: str, text: str) -> int:
    """A place in time."""
    if not text.isdecimal() or len(text) > 6:
        raise PromptError(f"--of: {name}={text} must be a whole number, 0 to 999999", key="one_frame")
    return int(text)
