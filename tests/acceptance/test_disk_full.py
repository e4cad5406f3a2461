"""A disk that is full while a sample is written: said clearly, nothing left behind, made when there is room again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Workers, workers

from queue_support import make_job
from rushes.client.client import Client
from rushes.wire.results import JobState
from support import wait_until

START_S = 60.0
ROOM_KB = 256
BALLAST = "ballast"

may_mount = os.geteuid() == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, too small for much."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = may_mount and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM_KB}k", "rushes-test", str(place)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def pool(redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    with workers(redis_url, tmp_path, RUSHES_MAX_ATTEMPTS="50", RUSHES_RETRY_DELAY_S="0.02") as pool:
        yield pool


def fill(disk: Path) -> None:
    """Leave not one block."""
    with (disk / BALLAST).open("wb", buffering=0) as ballast:
        try:
            while ballast.write(b"x" * 4096):
                pass
        except OSError:
            return


@pytest.mark.parametrize("frames", [1, 25], ids=["png", "mp4"])
def test_a_sample_that_finds_no_room_is_made_when_there_is_some(
    client: Client, pool: Workers, disk: Path, frames: int
) -> None:
    fill(disk)
    job = make_job(output_dir=disk / "out", sample_steps=1, width=64, height=64, frame_count=frames)
    (disk / "out" / "sample").mkdir(parents=True)
    client.submit([job])
    pool.start("--dry-run")
    wait_until(lambda: client.get(job.id).attempt >= 2, START_S, "two attempts")
    assert "disk full" in pool.logs()
    assert "Traceback" not in pool.logs()
    (disk / BALLAST).unlink()
    wait_until(lambda: client.get(job.id).state.terminal, START_S, "the end of the sample")
    record = client.get(job.id)
    assert record.state is JobState.DONE, record.result
    assert record.result and record.result.path and record.result.receipt
    made = {Path(record.result.path).name, Path(record.result.receipt).name}
    assert {path.name for path in (disk / "out" / "sample").iterdir()} == made


def test_when_the_attempts_are_used_up_the_failure_says_what_to_do_and_leaves_nothing(
    client: Client, pool: Workers, disk: Path
) -> None:
    (disk / "out" / "sample").mkdir(parents=True)
    job = make_job(output_dir=disk / "out", sample_steps=1, width=512, height=512, frame_count=97)
    client.submit([job])
    (disk / BALLAST).write_bytes(b"x" * (ROOM_KB - 40) * 1024)  # room to begin with, but not to end
    pool.start("--dry-run", RUSHES_MAX_ATTEMPTS="2")
    wait_until(lambda: client.get(job.id).state.terminal, START_S, "the end of the sample")
    record = client.get(job.id)
    assert record.state is JobState.FAILED
    assert record.attempt == 1
    assert record.result and record.result.error
    assert record.result.error.code == "output"
    assert "disk full" in record.result.error.message
    assert list((disk / "out" / "sample").iterdir()) == []
