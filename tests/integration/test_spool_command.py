"""`rushes spool`: what waits on disk after the training that wrote it has ended."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from queue_support import empty_safetensors, make_job
from rushes._paths import SNAPSHOT_DIR, SPOOL_DIR
from rushes.checkpoints.safetensors import fingerprint
from rushes.checkpoints.store import store_of
from rushes.cli.main import main
from rushes.client.client import Client
from rushes.prompts.files import read_prompts
from rushes.submission.build import Run
from rushes.submission.spool import Spool, Submission
from rushes.training import outbox
from rushes.wire.jobs import Checkpoint
from rushes.wire.models import ModelSpec
from support import wait_until


def test_waiting_hand_offs_are_listed_and_handed_over_once(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Spool(tmp_path / SPOOL_DIR).write(Submission([make_job(index=index, step=40) for index in range(3)]))
    assert main(["spool", "ls", str(tmp_path)]) == 0
    assert "run, step 40, 3 samples" in capsys.readouterr().out
    for handed in (3, 0):
        assert main(["spool", "replay", str(tmp_path), "--redis-url", redis_url]) == 0
        assert capsys.readouterr().out == f"{handed} samples handed over\n"
    client = Client(redis_url)
    assert len(client.list()) == 3
    client.close()


def test_a_damaged_hand_off_is_named_and_the_others_go_on(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = Spool(tmp_path / SPOOL_DIR)
    damaged = spool.write(Submission([make_job()]))
    damaged.write_text("{")
    spool.write(Submission([make_job(index=1)]))
    assert main(["spool", "replay", str(tmp_path), "--redis-url", redis_url]) == 1
    said = capsys.readouterr().out
    assert str(damaged) in said
    assert "1 samples handed over" in said
    assert damaged.exists()


def test_a_directory_that_is_not_there_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spool", "ls", str(tmp_path / "gone")]) == 2
    assert "there is no such directory" in capsys.readouterr().err


def test_a_snapshot_that_a_killed_worker_left_behind_is_removed_later(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / SNAPSHOT_DIR
    directory.mkdir(parents=True)
    orphan, needed = (empty_safetensors(directory / f"{name}.safetensors") for name in ("orphan", "needed"))
    client = Client(redis_url)
    client.submit([make_job(checkpoint=Checkpoint(path=str(needed), fingerprint="0", snapshot=True))])
    prompts = tmp_path / "p.txt"
    prompts.write_text("a cat\n")
    monkeypatch.setattr(outbox, "UNNEEDED_S", 0.0)
    wait_until(lambda: time.time() > max(path.stat().st_ctime for path in (orphan, needed)), 5, "the clock")
    run = Run(name="r", model=ModelSpec(architecture="wan2.1-t2v"), output_dir=str(tmp_path))
    box = outbox.Outbox(run, lambda: read_prompts(prompts), redis_url)
    wait_until(lambda: not orphan.exists(), 10, "the orphan's removal")
    assert needed.exists()
    box.close()
    client.close()


def test_a_snapshot_that_was_uploaded_does_not_stay(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / SNAPSHOT_DIR).mkdir(parents=True)
    kept = empty_safetensors(tmp_path / SNAPSHOT_DIR / "kept.safetensors")
    checkpoint = Checkpoint(path=str(kept), fingerprint=fingerprint(kept), snapshot=True)
    staged = {"checkpoint": checkpoint, "staging": f"file://{tmp_path}/store", "output_dir": str(tmp_path)}
    Spool(tmp_path / SPOOL_DIR).write(Submission([make_job().model_copy(update=staged)]))
    assert main(["spool", "replay", str(tmp_path), "--redis-url", redis_url]) == 0
    assert not kept.exists()
    assert len(list((tmp_path / "store").rglob("*.safetensors"))) == 1
    store_of.cache_clear()
