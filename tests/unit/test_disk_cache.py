"""The conditioning cache on disk: its limit, its command, and that a full one makes encoders needless."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from engine_support import Recorder
from family_support import CLIP_FRAMES, FAMILIES, makes_clips, tiny_model_spec, tiny_options
from queue_support import make_job
from rushes.cli import main as cli
from rushes.families.table import ARCHITECTURES
from rushes_service.engine.engine import Engine
from rushes_service.models.conditioning import ConditioningCache
from rushes_service.storage.disk_cache import CONDITIONING_DIR, DiskCache

pytestmark = pytest.mark.usefixtures("small_control_images")

ENCODERS = ("text_encoder", "text_encoder_2", "image_encoder")


def filled(directory: Path, texts: str, max_bytes: int | None = None) -> ConditioningCache:
    """A cache with one file for each letter, used in their order; each is larger than 4 kB."""
    cache = ConditioningCache(directory, max_bytes)
    for age, text in enumerate(texts):
        cache.write({"kind": "test", "text": text}, {"embeds": torch.zeros(1024)})
        path = cache.path({"kind": "test", "text": text})
        if path.exists():
            os.utime(path, (age, age))
    return cache


def kept(cache: ConditioningCache) -> set[str]:
    return {file.key()["text"] for file in DiskCache(cache.directory).files()}


def test_what_was_used_longest_ago_makes_room(tmp_path):
    cache = filled(tmp_path, "abc")
    assert cache.read({"kind": "test", "text": "a"}) is not None
    limited = ConditioningCache(tmp_path, max_bytes=3 * 5000)
    limited.write({"kind": "test", "text": "d"}, {"embeds": torch.zeros(1024)})
    assert kept(cache) == {"a", "c", "d"}


def test_the_newest_file_is_kept_though_it_alone_is_too_large(tmp_path):
    assert kept(filled(tmp_path, "ab", max_bytes=10)) == {"b"}


def test_without_a_limit_everything_is_kept(tmp_path):
    assert kept(filled(tmp_path, "abcdef")) == set("abcdef")


def test_the_command_lists_and_clears(tmp_path, capsys):
    filled(tmp_path / CONDITIONING_DIR, "ab")
    assert cli.main(["cache", "ls", "--cache-dir", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert "test: a" in listed
    assert "2 files" in listed
    assert cli.main(["cache", "clear", "--cache-dir", str(tmp_path)]) == 0
    assert "2 files deleted" in capsys.readouterr().out
    assert DiskCache(tmp_path / CONDITIONING_DIR).files() == []


def test_a_file_that_is_none_of_ours_is_listed_without_a_key(tmp_path):
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "junk.safetensors").write_bytes(b"junk")
    [file] = DiskCache(tmp_path).files()
    assert file.key() == {}


@pytest.mark.parametrize("name", FAMILIES)
def test_with_a_full_cache_the_encoders_can_be_deleted(name, tmp_path):
    spec = ARCHITECTURES[name]
    model, engine = tiny_model_spec(name, tmp_path), Engine("cpu", tmp_path / "cache")
    options = tiny_options(spec, tmp_path, CLIP_FRAMES if makes_clips(spec) else 1)

    def frames() -> np.ndarray:
        return np.stack(list(engine.denoise(make_job(model=model, **options), Recorder()).frames()))

    wanted = frames()
    deleted = [file for part in ENCODERS for file in (Path(str(model.model)) / part).glob("*.safetensors")]
    assert deleted
    for file in deleted:
        file.unlink()
    assert np.array_equal(frames(), wanted)
