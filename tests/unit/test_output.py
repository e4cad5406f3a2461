"""The output directory of a sample: looked at by the worker, made by who submits."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_support import make_job
from rushes._files import make_output_directory
from rushes._paths import absolute
from rushes.errors import OutputError, OutputRefused
from rushes.prompts.fields import located
from rushes.submission.build import Run
from rushes.submission.submission_builder import SubmissionBuilder
from rushes.training.flags import located as located_flag
from rushes_service.media.output import output_errors, prepare_output

SOMEBODY = 1234


@pytest.fixture
def foreign() -> Iterator[Path]:
    """A directory that this process may see and not write."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(SOMEBODY)
        try:
            yield directory
        finally:
            if root:
                os.seteuid(0)
            directory.chmod(0o755)


def test_only_sample_is_made_in_a_directory_that_is_there(tmp_path: Path) -> None:
    prepare_output(tmp_path, str(tmp_path))
    prepare_output(tmp_path, str(tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == ["sample"]


def test_a_directory_that_is_not_there_is_not_made_and_is_named_with_both_its_paths(tmp_path: Path) -> None:
    with pytest.raises(OutputRefused, match=rf"{tmp_path}/out is not there.*not mounted.*--map {tmp_path}/out=HERE"):
        prepare_output(tmp_path / "out", f"{tmp_path}/out")
    with pytest.raises(OutputRefused, match=rf"/train/out, here {tmp_path}/out, is not there.*--map /train/out=HERE"):
        prepare_output(tmp_path / "out", "/train/out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputRefused, match="out is a file"):
        prepare_output(tmp_path / "out", str(tmp_path / "out"))
    (tmp_path / "sample").write_text("")
    with pytest.raises(OutputRefused, match="sample cannot be written: File exists"):
        prepare_output(tmp_path, str(tmp_path))


def test_a_directory_that_may_not_be_written_tells_as_whom_the_worker_runs(foreign: Path) -> None:
    with pytest.raises(OutputRefused, match=rf"denied.*runs as {os.geteuid()}:{os.getegid()}") as caught:
        prepare_output(foreign, str(foreign))
    assert not caught.value.retryable


def test_a_full_disk_is_tried_again_and_a_read_only_one_is_not(tmp_path: Path) -> None:
    for number, retryable in ((errno.ENOSPC, True), (errno.EIO, True), (errno.EROFS, False), (errno.EACCES, False)):
        with pytest.raises(OutputError) as caught, output_errors(tmp_path):
            raise OSError(number, os.strerror(number))
        assert caught.value.retryable is retryable


@pytest.mark.parametrize("path", ["s3://bucket/run", r"C:\train\out", "relative/out", "/dev/null/out", "/\0"])
def test_what_cannot_be_made_here_is_left_to_the_worker(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_output_directory(path)
    assert list(tmp_path.iterdir()) == []


def test_a_hand_off_makes_its_output_directory(tmp_path: Path) -> None:
    run = Run(name="r", model=make_job().model, output_dir=str(tmp_path / "a" / "out"))
    SubmissionBuilder(run, lambda: ()).build(1, None, None)
    assert (tmp_path / "a" / "out").is_dir()


def test_paths_are_told_without_dots_and_are_those_of_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "x.safetensors").write_text("")
    (tmp_path / "disk" / "beside").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "deep")
    monkeypatch.chdir(tmp_path / "trainer")
    wanted = tmp_path / "x.safetensors"
    assert absolute("../x.safetensors") == wanted
    assert absolute("../new/../out") == tmp_path / "out"
    assert located_flag("../x.safetensors") == str(wanted)
    assert located("../x.safetensors", None) == str(wanted)
    assert located("../x.safetensors", tmp_path / "trainer") == str(wanted)
    assert absolute("../link/../beside") == tmp_path / "disk" / "beside"  # not beside the link
    assert absolute("../link/x") == tmp_path / "link" / "x"  # the trainer's name for it
    assert absolute("/../..") == Path("/")
