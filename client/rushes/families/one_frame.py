"""What `--of` says: how FramePack and Wan make one picture from others.

Comma-separated: `target_index=5,control_index=0;10,no_2x,no_4x,no_post`. Indices are places in time, in latent
frames. As musubi-tuner's, but what it drops without a word is an error here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rushes.errors import PromptError

FLAGS = ("no_2x", "no_4x", "no_post")
KNOWN = f"target_index=N, control_index=N;N, {', '.join(FLAGS)}"


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
        if name in FLAGS and not equals:
            found[name] = True
        elif name == "target_index":
            found[name] = index(name, value)
        elif name == "control_index":
            found[name] = tuple(index(name, item.strip()) for item in value.split(";"))
        else:
            raise PromptError(f"--of: {part.strip()!r} is no option; known: {KNOWN}", key="one_frame")
    return OneFrame(**found)  # type: ignore[arg-type]  # each name has its own type


LAST_PLACE = 1023
"""Wan's positions in time are tabulated up to here."""


@dataclass(frozen=True)
class Places:
    """Places in time of the frames that Wan denoises together to make one picture, in ascending order.

    `target` is the position in `frames` of the picture; the others are control images, dealt in the order of `--ci`.
    """

    frames: tuple[int, ...]
    target: int
    warnings: tuple[str, ...] = ()


def place_frames(text: str | None, controls: int) -> Places:
    """Where Wan's picture and its control images are, by `--of` and the number of `--ci`.

    Raises:
        PromptError: an option is malformed, an index is missing, given twice or too large, or a control image is.
    """
    options = parse_one_frame(text)
    given = options.control_index
    if options.target_index is None or not given:
        raise PromptError("--of needs both: target_index=N,control_index=N;N", key="one_frame")
    if len({*given, options.target_index}) <= len(given):
        raise PromptError(f"--of {text}: each index may be given once, the target's among them", key="one_frame")
    if (largest := max(*given, options.target_index)) > LAST_PLACE:
        raise PromptError(f"--of: index {largest} is too large; {LAST_PLACE} is the last", key="one_frame")
    if controls < len(given):
        raise PromptError(
            f"--of places {len(given)} control images, but --ci gives {controls}: add --ci, or take an index away",
            key="control_image_path",
        )
    frames = tuple(sorted({*given, options.target_index}))
    return Places(frames, frames.index(options.target_index), tuple(remarks(options, controls)))


def remarks(options: OneFrame, controls: int) -> Iterator[str]:
    """What a prompt of Wan's says that changes nothing, or that is easily taken for something else."""
    if (extra := controls - len(options.control_index)) > 0:
        yield f"--ci: the last {extra} of {controls} are ignored, --of control_index places the others"
    if list(options.control_index) != sorted(options.control_index):
        yield "--of control_index is not in ascending order: --ci are dealt to the indices from the smallest on"
    if flags := [name for name in FLAGS if getattr(options, name)]:
        yield f"--of {', '.join(flags)}: of FramePack, ignored here"


def index(name: str, text: str) -> int:
    """A place in time."""
    if not text.isdecimal() or len(text) > 6:
        raise PromptError(f"--of: {name}={text} must be a whole number, 0 to 999999", key="one_frame")
    return int(text)
