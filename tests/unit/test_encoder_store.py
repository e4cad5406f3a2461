"""Encoders that are kept in host memory: the same bits, within their budget, and given back when memory is short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import engine_support  # noqa: F401  # one thread, no network
from rushes_service.models.encoder_store import EncoderStore, Key
from rushes_service.models.encoders.umt5 import TextEncoder
from rushes_service.models.loading.from_repo import ModelSource
from rushes_service.runtime.host_memory import HostMemory, host_memory

CPU = torch.device("cpu")
GIB = 1 << 30
PLENTY = HostMemory(total=100 * GIB, available=90 * GIB)
SIZE = 4 * 4 * 4
"""Bytes of `Weights`."""


class Weights(nn.Linear):
    """Something to keep."""

    def __init__(self) -> None:
        super().__init__(4, 4, bias=False)


def lend(store: EncoderStore, name: str = "first") -> Any:
    """Acquire and release an encoder of `SIZE` bytes; returns it."""
    key: Key = (name,)
    lent = store.acquire(key, CPU, lambda: store.placed(Weights(), CPU))
    store.release()
    return lent


def test_what_is_kept_is_not_loaded_again():
    store = EncoderStore(SIZE)
    first = lend(store)
    assert lend(store) is first
    assert (store.loads, store.host_bytes) == (1, SIZE)


def test_without_a_budget_nothing_is_kept():
    store = EncoderStore(0)
    assert lend(store) is not lend(store)
    assert (store.loads, store.host_bytes) == (2, 0)


def test_inside_a_session_an_encoder_is_loaded_once_though_nothing_is_kept():
    store = EncoderStore(0)
    with store.session():
        assert lend(store) is lend(store)
        assert store.in_use
    assert not store.in_use
    assert store.loads == 1


def test_the_encoder_used_longest_ago_makes_room():
    store = EncoderStore(2 * SIZE)
    lend(store, "old")
    kept = lend(store, "kept")
    lend(store, "old")
    lend(store, "new")
    assert store.loads == 3
    assert lend(store, "kept") is not kept
    assert store.host_bytes == 2 * SIZE


def test_what_is_lent_makes_no_room_for_others():
    store = EncoderStore(SIZE)
    with store.session():
        first = lend(store, "first")
        lend(store, "second")
        assert lend(store, "first") is first
    assert store.host_bytes == SIZE


@pytest.mark.parametrize(("available", "kept"), [(30, SIZE), (20, 0)])
def test_by_default_a_quarter_of_the_hosts_memory_stays_available(available, kept):
    store = EncoderStore(None, lambda: HostMemory(100 * GIB, available * GIB))
    lend(store)
    assert store.host_bytes == kept


@pytest.mark.parametrize("budget", [None, 10 * SIZE])
def test_kept_encoders_are_given_back_while_memory_is_short(budget):
    memory = PLENTY
    store = EncoderStore(budget, lambda: memory)
    lend(store)
    store.relieve()
    assert store.host_bytes == SIZE
    memory = HostMemory(100 * GIB, 5 * GIB)
    with store.session():
        lend(store)
        store.relieve()
        assert store.host_bytes == SIZE, "it is in use"
    store.relieve()
    assert store.host_bytes == 0


def test_a_load_that_failed_leaves_nothing_and_can_be_tried_again():
    store = EncoderStore(None, lambda: PLENTY)

    def half() -> None:
        store.placed(Weights(), CPU)
        raise OSError("the second file is not there")

    with pytest.raises(OSError, match="second file"), store.session():
        store.acquire(("both",), CPU, half)
    assert (store.host_bytes, store.in_use) == (0, False)
    lend(store, "both")
    assert store.host_bytes == SIZE


@pytest.mark.parametrize("float8", [False, True])
def test_embeddings_of_a_kept_encoder_are_those_of_a_fresh_one(tiny_wan: Path, float8: bool):
    store = EncoderStore(None, lambda: PLENTY)

    def embeds(kept: EncoderStore | None, text: str) -> torch.Tensor:
        source = ModelSource(tiny_wan, None)
        with TextEncoder(source, CPU, torch.bfloat16, kept, float8=float8) as encoder:
            return encoder.encode(text)["embeds"]

    for text in ("a red ball", "a blue cube", "a red ball"):
        assert torch.equal(embeds(store, text), embeds(None, text))
    assert store.loads == 1


def test_other_files_and_precisions_are_other_encoders(tiny_wan: Path, tmp_path: Path):
    store = EncoderStore(None, lambda: PLENTY)
    for dtype, float8 in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        with TextEncoder(ModelSource(tiny_wan, None), CPU, dtype, store, float8=float8) as encoder:
            encoder.encode("a red ball")
    assert store.loads == 3


def test_a_container_has_what_its_control_group_allows(tmp_path: Path):
    (tmp_path / "memory.max").write_text(f"{1 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{3 << 18}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {1 << 18}\n")
    assert host_memory(tmp_path) == HostMemory(total=1 << 20, available=1 << 19)
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory(tmp_path).total == host_memory(tmp_path / "nowhere").total > 1 << 20
