"""A pipeline's `__call__`, stopped before its noise and before its VAE, so that both can be done at other times.

What is put in the place of a method is an attribute of the object, and taken away again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from rushes_service.models.conditioning import Conditioning


class Reached(BaseException):
    """Ends a call at the place it was to reach. No `Exception`, so that no pipeline catches it."""


@contextlib.contextmanager
def in_place_of(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Inside, calls of `owner.name` by this thread are those of `function`; other threads get the method."""
    method, thread = getattr(owner, name), threading.get_ident()

    def either(*args: Any, **kwargs: Any) -> Any:
        return (function if threading.get_ident() == thread else method)(*args, **kwargs)

    object.__setattr__(owner, name, either)
    try:
        yield
    finally:
        object.__delattr__(owner, name)


def until(pipe: Any, owner: Any, name: str, arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Call `pipe` until it calls `owner.name`, and return what it passes by position and by name.

    Raises:
        RuntimeError: it ends without.
    """
    passed: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def stop(*args: Any, **kwargs: Any) -> Any:
        nonlocal passed
        passed = args, kwargs
        raise Reached

    with in_place_of(owner, name, stop):
        try:
            pipe(**arguments)
        except Reached:
            return passed
    raise RuntimeError(f"{type(pipe).__name__} never calls {name}")


def flattened(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Tensors in nested tuples and lists, and Nones, by their places: "0.2" is the third in the first."""
    if value is None or isinstance(value, torch.Tensor):
        yield name, value
        return
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"embeddings hold a {type(value).__name__}")
    kind = "t" if isinstance(value, tuple) else "l"
    for index, item in enumerate(value):
        yield from flattened(item, f"{name}.{kind}{index}")


def packed(value: Any) -> Conditioning:
    """What `encode_prompt` returned, as tensors by name. None has a name of its own, and no numbers."""
    found: Conditioning = {}
    for name, tensor in flattened(value, ""):
        found[name if tensor is not None else f"{name}.none"] = torch.empty(0) if tensor is None else tensor.clone()
    return found


def unpacked(tensors: Conditioning) -> Any:
    """What `packed` was given."""
    if "" in tensors:
        return tensors[""]
    if ".none" in tensors:
        return None
    groups: dict[str, Conditioning] = {}
    for name, tensor in tensors.items():
        first, _, rest = name[1:].partition(".")
        groups.setdefault(first, {})[f".{rest}" if rest else ""] = tensor
    items = [unpacked(group) for _, group in sorted(groups.items(), key=lambda item: int(item[0][1:]))]
    return tuple(items) if next(iter(groups)).startswith("t") else items
