"""Caches of methods that end with the object they are of.

`functools.lru_cache` on a method keeps every object that it was ever called on, with what it computed: diffusers' Qwen
models keep their rotary tables so, on the GPU, for as long as the process lives.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from torch import nn

CALLS = 128
"""Answers that a cache keeps; each is a table of the size of one picture."""


def give_own_caches(model: nn.Module) -> None:
    """Let each module of `model` keep for itself what its class would keep for all of them."""
    for module in model.modules():
        for name, computes in cached_methods(type(module)).items():
            setattr(module, name, functools.lru_cache(CALLS)(functools.partial(computes, module)))


@functools.cache
def cached_methods(kind: type) -> dict[str, Any]:
    """The functions below the cached methods of a class, by name."""
    members = {name: inspect.getattr_static(kind, name) for name in dir(kind)}
    return {name: member.__wrapped__ for name, member in members.items() if is_cached(member)}


def is_cached(member: Any) -> bool:
    """True for a method with a cache, which may be within another decorator."""
    if not hasattr(member, "__wrapped__"):
        return False
    if hasattr(member, "cache_clear"):
        return True
    if not inspect.isfunction(member):
        return False
    return any(hasattr(inner, "cache_clear") for inner in inspect.getclosurevars(member).nonlocals.values())
