"""Buffers of host memory: what they hold and what they take. That they are pinned only a GPU can show."""

from __future__ import annotations

import pytest
import torch

from rushes_service.runtime import pinned


def test_copies_share_one_buffer_and_are_equal():
    tensors = [torch.randn(3, 5), torch.randn(7).to(torch.bfloat16), torch.ones(2, 2).to(torch.float8_e4m3fn)]
    copies = pinned.pinned_copies(tensors)
    assert all(torch.equal(copy.float(), tensor.float()) for copy, tensor in zip(copies, tensors, strict=True))
    assert all(copy.dtype == tensor.dtype for copy, tensor in zip(copies, tensors, strict=True))
    assert len({copy.untyped_storage().data_ptr() for copy in copies}) == 1


@pytest.mark.parametrize("shapes", [[(5120, 5120)] * 4 + [(5120, 13824), (5120,)], [(1536, 1536), (1536,)] * 8])
def test_a_buffer_takes_little_more_than_it_holds(shapes):
    tensors = [torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in shapes]
    size, starts = pinned.laid_out(tensors)
    assert size <= 1.1 * sum(tensor.nbytes for tensor in tensors)
    ends = [start + tensor.nbytes for start, tensor in zip(starts, tensors, strict=True)]
    assert all(end <= start for end, start in zip(ends, [*starts[1:], size], strict=True))


def test_a_large_buffer_is_locked_as_it_is_and_unlocked_when_it_goes(monkeypatch):
    locked: dict[int, int] = {}
    monkeypatch.setattr(pinned, "lock_pages", lambda address, size: locked.update({address: size}) is None)
    monkeypatch.setattr(pinned, "unlock_pages", locked.pop)
    buffer = pinned.locked_bytes(10_000)
    assert buffer is not None
    assert (buffer.numel(), list(locked)) == (10_000, [buffer.data_ptr()])
    assert 10_000 <= locked[buffer.data_ptr()] < 10_000 + pinned.PAGE
    part = buffer[5:50]
    del buffer
    assert locked
    del part
    assert not locked


def test_memory_that_cannot_be_locked_serves_all_the_same(monkeypatch):
    monkeypatch.setattr(pinned, "lock_pages", lambda _address, _size: False)
    assert pinned.locked_bytes(10_000) is None
