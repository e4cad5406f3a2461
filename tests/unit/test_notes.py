"""Notes of hand-offs: whose process is dead, and who takes them over."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict
from pathlib import Path

import pytest

from rushes.training.handoffs import HandoffJournal, Note


@pytest.fixture
def pending(tmp_path: Path) -> Path:
    path = tmp_path / "1-2-3.pending.safetensors"
    path.touch()
    return path


def left(directory: Path, pending: Path, *, host: str | None = None, pid: int | None = None) -> Path:
    """The note of another process."""
    note = Note("run", 10, None, str(pending), None, host or socket.gethostname(), pid or os.getpid())
    path = directory / f"{note.pid}-1-0.note"
    path.write_text(json.dumps(asdict(note)))
    return path


def test_a_container_that_starts_again_with_the_same_process_number_takes_over(tmp_path: Path, pending: Path) -> None:
    notes = HandoffJournal(tmp_path, "run")
    assert notes.write(20, None, pending, None)
    left(tmp_path, pending)
    assert [note.step for _, note in notes.abandoned()] == [10]


def test_what_two_find_at_the_same_time_one_takes_over(tmp_path: Path, pending: Path) -> None:
    dead = left(tmp_path, pending)
    first, second = (HandoffJournal(tmp_path, "run").abandoned() for _ in range(2))
    mine, _ = next(first)
    assert mine.exists()
    assert not dead.exists()
    assert list(second) == []


def test_averaged_weights_are_taken_over_under_their_label(
    tmp_path: Path, pending: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HandoffJournal(tmp_path, "run", "ema").write(10, None, pending, None)
    monkeypatch.setattr("rushes.training.handoffs._written", set())  # as in the next process
    assert list(HandoffJournal(tmp_path, "run").abandoned()) == []
    assert [note.label for _, note in HandoffJournal(tmp_path, "run", "ema").abandoned()] == ["ema"]


def test_a_note_without_its_weights_is_removed(tmp_path: Path, pending: Path) -> None:
    dead = left(tmp_path, pending)
    pending.unlink()
    assert list(HandoffJournal(tmp_path, "run").abandoned()) == []
    assert not dead.exists()
