"""Caches of methods: one for each object, and gone with it."""

from __future__ import annotations

import functools
import gc
import weakref

import torch
from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope
from torch import nn

from rushes_service.models.loading.method_caches import give_own_caches


class Plain(nn.Module):
    """A module with a cached method."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    @functools.lru_cache  # noqa: B019 - the fault itself
    def table(self, size: int) -> torch.Tensor:
        self.calls += 1
        return torch.arange(size)

    @classmethod
    def named(cls) -> str:
        return cls.__name__

    @torch.no_grad()
    def other(self) -> int:
        return 1


def rope() -> QwenEmbedRope:
    return QwenEmbedRope(theta=10000, axes_dim=[8, 4, 4], scale_rope=True)


def test_a_modules_tables_go_with_it() -> None:
    module = rope()
    give_own_caches(module)
    module([(1, 4, 4)], device=torch.device("cpu"), max_txt_seq_len=7)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None


def test_tables_are_the_same_and_computed_once() -> None:
    wanted = rope()([(1, 4, 4)], device=torch.device("cpu"), max_txt_seq_len=7)
    module = rope()
    give_own_caches(module)
    found = module([(1, 4, 4)], device=torch.device("cpu"), max_txt_seq_len=7)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    plain = Plain()
    give_own_caches(plain)
    assert plain.table(3) is plain.table(3)
    assert plain.calls == 1
    assert "other" not in vars(plain)
