"""The conditioning cache: a damaged or unwritable one costs time, never a sample."""

from __future__ import annotations

import pytest
import torch

import engine_support  # noqa: F401  # one thread, no network
from rushes_service.models.conditioning import Conditioning, ConditioningCache

KEY = {"kind": "test", "text": "a red ball"}


class Encoder:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Conditioning:
        self.calls += 1
        return {"embeds": torch.arange(6.0).view(2, 3)}


def test_what_was_computed_once_is_read_ever_after(tmp_path):
    encoder = Encoder()
    first = ConditioningCache(tmp_path).get(KEY, encoder)
    second = ConditioningCache(tmp_path).get(KEY, encoder)
    assert encoder.calls == 1
    assert torch.equal(first["embeds"], second["embeds"])


def test_every_part_of_the_key_counts(tmp_path):
    cache, encoder = ConditioningCache(tmp_path), Encoder()
    for key in (KEY, {**KEY, "text": "a red ball "}, {**KEY, "dtype": "bfloat16"}):
        cache.get(key, encoder)
    assert encoder.calls == 3


def test_a_damaged_file_is_a_miss_and_is_replaced(tmp_path):
    cache, encoder = ConditioningCache(tmp_path), Encoder()
    cache.get(KEY, encoder)
    for damage in (b"", b"junk", cache.path(KEY).read_bytes()[:-4]):
        cache.path(KEY).write_bytes(damage)
        cache.get(KEY, encoder)
    assert encoder.calls == 4
    assert cache.read(KEY) is not None


@pytest.mark.parametrize("where", ["embeds", "numbers"])
def test_a_flipped_bit_is_a_miss_and_not_another_picture(where, tmp_path, caplog):
    cache, encoder = ConditioningCache(tmp_path), Encoder()
    cache.get(KEY, encoder)
    content = bytearray(cache.path(KEY).read_bytes())
    content[-1 if where == "numbers" else content.index(b"embeds")] ^= 1
    cache.path(KEY).write_bytes(content)
    assert torch.equal(cache.get(KEY, encoder)["embeds"], encoder()["embeds"])
    assert "is damaged and is made anew" in caplog.text


def test_a_file_of_another_key_is_a_miss(tmp_path):
    cache = ConditioningCache(tmp_path)
    other = {**KEY, "text": "a blue cube"}
    cache.get(other, Encoder())
    cache.path(KEY).parent.mkdir(parents=True, exist_ok=True)
    cache.path(other).rename(cache.path(KEY))
    assert cache.read(KEY) is None


def test_a_cache_that_cannot_be_written_still_gives_embeddings(tmp_path):
    (tmp_path / "file").write_text("no directory")
    cache = ConditioningCache(tmp_path / "file")
    assert cache.get(KEY, Encoder())["embeds"].shape == (2, 3)


def test_nothing_but_whole_files_is_left(tmp_path):
    cache = ConditioningCache(tmp_path)
    cache.get(KEY, Encoder())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [cache.path(KEY)]


def test_a_variant_is_written_and_read_apart_from_the_usual(tmp_path):
    cache, apart = ConditioningCache(tmp_path), ConditioningCache(tmp_path, variant="otherwise")
    apart.write(KEY, {"embeds": torch.ones(1)})
    assert cache.read(KEY) is None
    assert torch.equal(apart.get(KEY, Encoder())["embeds"], torch.ones(1))
    with cache.variant("otherwise"):
        assert torch.equal(cache.read(KEY)["embeds"], torch.ones(1))
