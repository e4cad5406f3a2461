"""The spool: whole submissions or none, read back as they were, others set aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from queue_support import make_job
from rushes.errors import WireError
from rushes.submission.build import Refused
from rushes.submission.spool import Spool, Submission
from rushes.wire.results import JobError

PARCEL = Submission(
    [make_job(index=0), make_job("ein Bär 🐻", index=1)], [Refused(make_job(index=2), JobError(code="c", message="m"))]
)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def test_a_parcel_reads_back_as_it_was(spool: Spool) -> None:
    path = spool.write(PARCEL)
    found = spool.read(path)
    assert found is not None
    assert (list(found.jobs), list(found.refused)) == (PARCEL.jobs, PARCEL.refused)
    assert [job.prompt_index for job in found.all] == [0, 1, 2]


def test_parcels_wait_in_the_order_in_which_they_were_written(spool: Spool) -> None:
    assert spool.waiting() == []
    written = [spool.write(PARCEL) for _ in range(3)]
    assert spool.waiting() == written
    spool.remove(written[0])
    spool.remove(written[0])
    assert spool.waiting() == written[1:]


def test_a_parcel_taken_by_another_process_is_none(spool: Spool) -> None:
    path = spool.write(PARCEL)
    spool.remove(path)
    assert spool.read(path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"half a par",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"jobs": ["{}"], "refused": []}',
        b'{"jobs": [], "refused": [3]}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_no_parcel_is_set_aside_and_kept(spool: Spool, content: bytes) -> None:
    path = spool.write(PARCEL)
    path.write_bytes(content)
    with pytest.raises(WireError):
        spool.read(path)
    assert spool.set_aside(path).read_bytes() == content
    assert spool.waiting() == []


def test_a_directory_that_cannot_be_made_is_an_os_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        Spool(tmp_path / "file" / "spool").write(PARCEL)
    assert Spool(tmp_path / "file" / "spool").waiting() == []
