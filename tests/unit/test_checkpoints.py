"""Checkpoint files: complete or not, kept through every kind of rotation, named by content."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rushes._paths import SNAPSHOT_DIR
from rushes.checkpoints.safetensors import fingerprint, read_header
from rushes.checkpoints.snapshots import adopt, release, snapshot
from rushes.errors import CheckpointError, CheckpointFormat, CheckpointIncomplete, CheckpointMissing

HEADER = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
    "__metadata__": {"ss_steps": "100"},
}


def safetensors(header: object = HEADER, data: bytes = bytes(12)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def zipped() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return target.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(safetensors())
    return path


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_the_header_of_a_complete_file_is_read(file: Path) -> None:
    assert read_header(file) == HEADER


def test_a_file_without_tensors_is_complete(file: Path) -> None:
    file.write_bytes(safetensors({}, b""))
    assert read_header(file) == {}


def test_a_file_cut_short_anywhere_is_incomplete(file: Path) -> None:
    whole = safetensors()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointIncomplete, match="still being written"):
            read_header(file)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (pickle.dumps({"a": 1}, protocol=2), "pickle"),
        (pickle.dumps({"a": 1}), "pickle"),
        (zipped(), "pickle"),
        (b"\xff" * 64, "not a safetensors file"),
        (b"garbage, and more of it than eight bytes", "not a safetensors file"),
        (safetensors(b"not json at all", b""), "not a JSON object"),
        (safetensors(b"[1, 2, 3]", b""), "not a JSON object"),
        (safetensors(b"[" * 100_000, b""), "not a JSON object"),
        (safetensors({"a": {"dtype": "F32"}}), "not say properly what a is"),
        (safetensors({"a": {"dtype": "F32", "shape": None, "data_offsets": [0, 12]}}), "not say properly what a is"),
        (safetensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 12]}}), "not say properly what a is"),
        (safetensors({"a": {"dtype": "F32", "shape": [3], "data_offsets": [-12, 0]}}), "not say properly what a is"),
        (safetensors({"a": 3}), "not say properly what a is"),
        (safetensors() + b"more", "4 bytes too many"),
    ],
)
def test_other_files_are_told_what_they_are(file: Path, content: bytes, told: str) -> None:
    file.write_bytes(content)
    with pytest.raises(CheckpointFormat, match=told) as caught:
        read_header(file)
    assert str(caught.value).startswith(f"{file}: ")


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda header: safetensors(header, b"")))
def test_arbitrary_bytes_give_a_header_or_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.safetensors"
    path.write_bytes(content)
    try:
        assert isinstance(read_header(path), dict)
    except CheckpointError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("reader", [read_header, fingerprint])
def test_a_path_without_a_file_is_missing(file: Path, reader: object) -> None:
    assert callable(reader)
    for path in (file.parent, file.parent / "absent", file / "below a file"):
        with pytest.raises(CheckpointMissing, match="there is no such checkpoint file"):
            reader(path)


def test_a_path_that_no_file_can_have_is_a_checkpoint_error() -> None:
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        fingerprint("x" * 5000)


def test_a_fingerprint_is_the_sha256_of_the_content(file: Path) -> None:
    assert fingerprint(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_snapshot_is_a_link_that_costs_no_copy(file: Path, tmp_path: Path) -> None:
    with opened(file) as descriptor:
        kept = snapshot(str(file), descriptor, tmp_path / "kept")
    assert kept.samefile(file)


def test_a_snapshot_outlives_the_deletion_of_the_file(file: Path, tmp_path: Path) -> None:
    with opened(file) as descriptor:
        kept = snapshot(str(file), descriptor, tmp_path / "kept")
    file.unlink()
    assert read_header(kept) == HEADER


def test_a_file_deleted_before_its_snapshot_was_made_is_kept_all_the_same(file: Path, tmp_path: Path) -> None:
    with opened(file) as descriptor:
        file.unlink()
        kept = snapshot(str(file), descriptor, tmp_path / "kept")
    assert read_header(kept) == HEADER


def test_a_file_replaced_before_its_snapshot_was_made_is_kept_as_it_was(file: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    newer.write_bytes(safetensors({}, b""))
    with opened(file) as descriptor:
        newer.rename(file)
        kept = snapshot(str(file), descriptor, tmp_path / "kept")
    assert read_header(kept) == HEADER
    assert list((tmp_path / "kept").iterdir()) == [kept]


@pytest.mark.parametrize("absolute", [True, False])
def test_a_symbolic_link_is_followed_so_that_its_target_may_go(file: Path, tmp_path: Path, absolute: bool) -> None:
    latest = tmp_path / "latest.safetensors"
    latest.symlink_to(file if absolute else file.name)
    with opened(latest) as descriptor:
        kept = snapshot(str(latest), descriptor, tmp_path / "kept" / "below")
    file.unlink()
    assert not kept.is_symlink()
    assert read_header(kept) == HEADER


def test_another_device_gets_a_copy(file: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == file.stat().st_dev:
        pytest.skip("needs a second file system")
    directory = shared / f"rushes-test-{os.getpid()}"
    try:
        with opened(file) as descriptor:
            kept = snapshot(str(file), descriptor, directory)
        assert not kept.samefile(file)
        assert read_header(kept) == HEADER
    finally:
        for left in directory.iterdir():
            left.unlink()
        directory.rmdir()


def test_where_links_are_refused_a_copy_is_made(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("hard links are not permitted here")

    monkeypatch.setattr(os, "link", refuse)
    with opened(file) as descriptor:
        kept = snapshot(str(file), descriptor, tmp_path / "kept")
    assert not kept.samefile(file)
    assert read_header(kept) == HEADER


def test_a_directory_that_cannot_be_made_is_an_os_error(file: Path) -> None:
    with opened(file) as descriptor, pytest.raises(OSError, match="Not a directory"):
        snapshot(str(file), descriptor, file / "kept")


def test_the_same_weights_are_kept_once(file: Path, tmp_path: Path) -> None:
    adopted = set()
    for _ in range(2):
        with opened(file) as descriptor:
            adopted.add(adopt(snapshot(str(file), descriptor, tmp_path / "kept"), "f" * 64))
    assert adopted == {tmp_path / "kept" / f"{'f' * 64}.safetensors"}
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_release_removes_snapshots_and_nothing_else(file: Path, tmp_path: Path) -> None:
    kept = tmp_path / SNAPSHOT_DIR / "x.safetensors"
    kept.parent.mkdir(parents=True)
    kept.touch()
    for path in (kept, kept, file):
        release(path)
    assert not kept.exists()
    assert file.exists()
