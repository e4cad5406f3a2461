"""Where each parameter of a live model is found in a file that names it in another way."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from rushes_service.lora.targets import PART, SWAPPED

Rule = Callable[[str], str]
"""The name of a module or a parameter in its first release, from that in diffusers or transformers; the same name if
it is not known. `#` numbers the parts of what was one module, see `lora.targets`."""

KINDS = {"weight": ("weight", "scale")}
"""What files call the parameters of a module: FLUX's norms have a `scale`."""


@dataclass(frozen=True)
class Slot:
    """Where a parameter lies in a file: its key, its rows if the key holds more, its halves if they are swapped."""

    key: str
    rows: tuple[int, int] | None = None
    swapped: bool = False

    def cut(self, stored: torch.Tensor) -> torch.Tensor:
        """The parameter, out of what the key holds.

        A part is copied: in the middle of other numbers it may lie so that kernels round it differently.
        """
        if self.swapped:
            return torch.cat(stored.chunk(2)[::-1])
        return stored if self.rows is None else stored[slice(*self.rows)].clone()


def find_slots(shapes: Mapping[str, torch.Size], rules: Sequence[Rule], keys: Collection[str]) -> dict[str, Slot]:
    """Where the parameters are that `keys` hold; those that they do not hold are left out.

    Args:
        shapes: of the live model's parameters, by name.
        rules: ways in which files may name them.
        keys: names in the file, in the model's first release or as in the live model.
    """
    found: dict[str, Slot] = {}
    fused: dict[str, dict[int, str]] = {}
    for name in shapes:
        spelled = (spelling for rule in rules for spelling in spellings(name, rule))
        key, part = next(((key, part) for key, part in spelled if key in keys), ("", ""))
        if part == SWAPPED:
            found[name] = Slot(key, swapped=True)
        elif part:
            fused.setdefault(key, {})[int(part)] = name
        elif key:
            found[name] = Slot(key)
    for key, parts in fused.items():
        start = 0
        for _, name in sorted(parts.items()):
            stop = start + shapes[name][0]
            found[name] = Slot(key, (start, stop))
            start = stop
    return found


def spellings(name: str, rule: Rule) -> Iterator[tuple[str, str]]:
    """What a parameter may be called in a file, and which part of it that is ("" for all)."""
    if (whole := rule(name)) != name:
        yield whole, ""
    module, _, kind = name.rpartition(".")
    original, _, part = rule(module).partition(PART)
    for leaf in KINDS.get(kind, (kind,)):
        yield f"{original}.{leaf}", part
    yield name, ""


def fitted(tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    """`tensor` in `shape`, else None.

    It may differ by sizes of one alone (a 1x1 convolution for a linear), or be one row of as many numbers (Krea 2's
    modulation).
    """
    if tensor.shape == shape:
        return tensor
    flat = tensor.ndim == 1
    same = flat or [size for size in tensor.shape if size != 1] == [size for size in shape if size != 1]
    return tensor.reshape(shape) if same and tensor.numel() == math.prod(shape) else None
