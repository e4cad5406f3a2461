"""Media files: named as trainers name them, whole or not there, each with its receipt."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import psutil
import pytest
from PIL import Image

from rushes.errors import ConfigError, LeaseLost, NonFiniteLatents, OutputError
from rushes.families.parameters import resolve
from rushes.families.rows.wan import WAN21_T2V
from rushes.submission.build import Run, build_job
from rushes.wire.jobs import Prompt, SampleJob
from rushes.wire.models import ModelSpec
from rushes_service.media.naming import sample_path
from rushes_service.media.receipts import noise_origin, read_receipt
from rushes_service.media.temporary import private_prefix, this_host
from rushes_service.media.writing import Written, write_media

RECEIPT = {"prompt": 'a "red" ball = #1; \\ ünï 🎬\nsecond line', "seed": 5, "sigmas": [0.1] * 1000}
JOB = "0123456789abcdef0123456789abcdef"


def pictures(count: int, *, height: int = 32, width: int = 48) -> Iterator[np.ndarray]:
    """Frames with a bright square that moves."""
    for index in range(count):
        frame = np.full((height, width, 3), (30, 60, 90), dtype=np.uint8)
        frame[8:24, index : index + 16] = (230, 120, 20)
        yield frame


def write(target: Path, frames: Iterator[np.ndarray], count: int, **options: Any) -> Written:
    defaults = {"job_id": JOB, "frame_count": count, "fps": 16, "receipt": lambda: RECEIPT, "guard": lambda: None}
    return write_media(frames, target, **{**defaults, **options})


def decoded(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Metadata and frames of an mp4."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, [np.frombuffer(raw, np.uint8).reshape(height, width, 3) for raw in reader]


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_single_frame_is_a_png_of_the_same_pixels(tmp_path):
    (frame,) = pictures(1)
    written = write(tmp_path / "a.png", iter([frame]), 1)
    assert np.array_equal(np.asarray(Image.open(written.path)), frame)
    assert (written.media_type, written.width, written.height, written.frame_count) == ("image/png", 48, 32, 1)
    assert files(tmp_path) == ["a.json", "a.png"]


def test_a_clip_is_an_h264_mp4_of_the_right_size_rate_and_length(tmp_path):
    written = write(tmp_path / "a.mp4", pictures(17), 17)
    meta, frames = decoded(written.path)
    assert (meta["codec"], meta["pix_fmt"].partition("(")[0], meta["size"], meta["fps"]) == (
        "h264",
        "yuv420p",
        (48, 32),
        16,
    )
    assert len(frames) == 17
    for found, wanted in zip(frames, pictures(17), strict=True):
        assert np.abs(found.astype(int) - wanted).mean() < 6
    assert files(tmp_path) == ["a.json", "a.mp4"]


def test_the_index_of_a_clip_stands_in_front_so_that_browsers_stream_it(tmp_path):
    data = write(tmp_path / "a.mp4", pictures(5), 5).path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("name", "count"), [("a.png", 1), ("a.mp4", 5)])
def test_the_receipt_is_read_back_from_beside_and_from_inside(tmp_path, name, count):
    written = write(tmp_path / name, pictures(count), count)
    assert read_receipt(written.receipt_path) == RECEIPT
    assert read_receipt(written.path) == RECEIPT


@pytest.mark.parametrize(
    ("facts", "origin"),
    [
        ({"device": "cuda:0 (NVIDIA H200)", "noise": "device"}, "NVIDIA H200"),
        ({"device": "cuda:3 (NVIDIA RTX A6000 (ECC))"}, "NVIDIA RTX A6000 (ECC)"),
        ({"device": "cuda:0 (NVIDIA H200)", "noise": "cpu"}, "cpu"),
        ({"device": "cpu", "noise": "device"}, "cpu"),
        ({"engine": "dry run"}, None),
    ],
)
def test_a_receipt_tells_what_drew_the_noise(facts, origin):
    assert noise_origin(facts) == origin


def test_a_file_without_a_receipt_says_so(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "foreign.png")
    for name in ("foreign.png", "missing.png", "missing.json", "a.gif"):
        with pytest.raises(OutputError, match=name):
            read_receipt(tmp_path / name)


def test_the_receipt_is_asked_for_after_the_last_frame(tmp_path):
    seen: list[str] = []

    def frames() -> Iterator[np.ndarray]:
        yield from pictures(5)
        seen.append("frames")

    def receipt() -> dict[str, Any]:
        seen.append("receipt")
        return {}

    write(tmp_path / "a.mp4", frames(), 5, receipt=receipt)
    assert seen[:2] == ["frames", "receipt"]


@pytest.mark.parametrize("made", [0, 4, 6])
def test_a_wrong_number_of_frames_is_an_error_and_leaves_nothing(tmp_path, made):
    with pytest.raises(OutputError, match="5 frames"):
        write(tmp_path / "a.mp4", pictures(made), 5)
    assert files(tmp_path) == []


@pytest.mark.parametrize("made", [0, 2])
def test_a_wrong_number_of_pictures_is_an_error_too(tmp_path, made):
    with pytest.raises(OutputError, match="1 frames"):
        write(tmp_path / "a.png", pictures(made), 1)
    assert files(tmp_path) == []


@pytest.mark.parametrize(("name", "count"), [("a.png", 1), ("a.mp4", 5)])
def test_an_error_while_decoding_passes_through_and_leaves_nothing(tmp_path, name, count):
    def failing() -> Iterator[np.ndarray]:
        yield from pictures(count - 1)
        raise NonFiniteLatents("of no use")

    with pytest.raises(NonFiniteLatents, match="of no use"):
        write(tmp_path / name, failing(), count)
    assert files(tmp_path) == []


@pytest.mark.parametrize(("name", "count"), [("a.png", 1), ("a.mp4", 5)])
def test_a_lost_lease_discards_the_file_right_before_it_gets_its_name(tmp_path, name, count):
    seen: list[list[str]] = []

    def guard() -> None:
        seen.append(files(tmp_path))
        raise LeaseLost("another worker owns it")

    with pytest.raises(LeaseLost):
        write(tmp_path / name, pictures(count), count, guard=guard)
    assert all(name.startswith(f".rushes-{JOB}-") for name in seen[0])
    assert files(tmp_path) == []


def test_a_lost_lease_leaves_the_new_owners_files_alone(tmp_path):
    theirs = tmp_path / f".rushes-{JOB}-ffffffff.mp4"

    def guard() -> None:
        theirs.write_text("being written")
        raise LeaseLost("another worker owns it")

    with pytest.raises(LeaseLost):
        write(tmp_path / "a.png", pictures(1), 1, guard=guard)
    assert files(tmp_path) == [theirs.name]


def test_leftovers_of_a_killed_attempt_are_removed_and_those_of_other_jobs_are_not(tmp_path):
    other = ".rushes-fedcba-1234.mp4"
    for name in (f".rushes-{JOB}-1234.mp4", f".rushes-{JOB}-1234-raw.mp4", other):
        (tmp_path / name).write_text("cut short")
    write(tmp_path / "a.png", pictures(1), 1)
    assert files(tmp_path) == [other, "a.json", "a.png"]


def test_files_of_dead_writers_go_with_the_next_sample_and_those_of_living_ones_stay(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here, elsewhere = this_host(), "00000000"
    dead = [f".rushes-a-{here}-{ended.pid}-11111111-raw.mp4", f".rushes-b-{here}-{os.getpid()}-11111111.mp4"]
    old = f".rushes-c-{elsewhere}-1-11111111.json"
    alive = [f".rushes-d-{here}-{os.getppid()}-11111111.mp4", f".rushes-e-{elsewhere}-1-11111111.mp4"]
    for name in (*dead, old, *alive):
        (tmp_path / name).write_text("cut short")
    os.utime(tmp_path / old, (0, 0))
    write(tmp_path / "a.png", pictures(1), 1)
    assert files(tmp_path) == [*alive, "a.json", "a.png"]


def test_a_sample_leaves_what_another_thread_is_writing(tmp_path):
    with private_prefix(tmp_path, "other") as prefix:
        (tmp_path / f"{prefix}.mp4").write_text("being written")
        write(tmp_path / "a.png", pictures(1), 1)
        assert files(tmp_path) == [f"{prefix}.mp4", "a.json", "a.png"]
    assert files(tmp_path) == ["a.json", "a.png"]


def test_a_second_attempt_replaces_the_first(tmp_path):
    write(tmp_path / "a.png", pictures(1), 1, receipt=lambda: {"attempt": 1})
    write(tmp_path / "a.png", pictures(1), 1, receipt=lambda: {"attempt": 2})
    assert read_receipt(tmp_path / "a.png") == {"attempt": 2}


@pytest.mark.parametrize(("name", "count"), [("a.png", 1), ("a.mp4", 5)])
def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path, name, count):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/sample.*may this user write"):
        write(tmp_path / "file" / "sample" / name, pictures(count), count)


def test_an_ffmpeg_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "no-ffmpeg"))
    with pytest.raises(OutputError, match=r"no-ffmpeg cannot be run.*IMAGEIO_FFMPEG_EXE"):
        write(tmp_path / "a.mp4", pictures(5), 5)
    assert files(tmp_path) == []


def test_an_ffmpeg_that_is_killed_is_an_error_and_leaves_nothing(tmp_path):
    others = psutil.Process().children()  # the session's server, for one

    def killing() -> Iterator[np.ndarray]:
        yield from pictures(1, height=512, width=512)
        for child in psutil.Process().children():
            if child not in others:
                child.kill()
        yield from pictures(9, height=512, width=512)

    with pytest.raises(OutputError, match="ffmpeg was killed"):
        write(tmp_path / "a.mp4", killing(), 10)
    assert files(tmp_path) == []


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from rushes.errors import OutputError
from rushes_service.media.writing import write_media

target, count = Path(sys.argv[1]), int(sys.argv[2])
noise = np.random.default_rng(0)
frames = (noise.integers(0, 255, (128, 128, 3), dtype=np.uint8) for _ in range(count))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_media(frames, target, job_id="j", frame_count=count, fps=16, receipt=dict, guard=lambda: None)
except OutputError as error:
    print("OutputError:", error)
"""


@pytest.mark.parametrize(("name", "count"), [("a.png", 1), ("a.mp4", 60)])
def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path, name, count):
    """A file size limit stands in for the full disk; it needs a process of its own."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / name), str(count)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.stdout.startswith("OutputError:"), result.stderr
    assert "disk full" in result.stdout
    assert files(tmp_path) == []


def job(**fields: Any) -> SampleJob:
    defaults = {
        "id": JOB,
        "run": "r",
        "submission": "s",
        "model": ModelSpec(architecture="wan2.1-t2v"),
        "prompt": Prompt(prompt="a red ball", seed=42),
        "prompt_index": 3,
        "step": 100,
        "output_dir": "/out",
        "output_name": "lora",
        "submitted_at": 1_700_000_000.0,
        "local_time": "20231114231320",
    }
    return SampleJob(**{**defaults, **fields})


def path_of(asked: SampleJob) -> str:
    return str(sample_path(asked, resolve(asked.prompt, WAN21_T2V)[0]))


def test_samples_are_named_as_trainers_name_theirs():
    when = "20231114231320"
    clip = Prompt(prompt="a red ball", seed=42, frame_count=9)
    assert path_of(job()) == f"/out/sample/lora_000100_03_{when}_42.png"
    assert path_of(job(prompt=clip)) == f"/out/sample/lora_000100_03_{when}_42.mp4"
    assert path_of(job(epoch=2)) == f"/out/sample/lora_e000002_03_{when}_42.png"
    assert path_of(job(epoch=0)) == f"/out/sample/lora_e000000_03_{when}_42.png"
    assert path_of(job(output_name=None)) == f"/out/sample/000100_03_{when}_42.png"
    assert path_of(job(label="ema")) == f"/out/sample/lora_000100_03_{when}_42_ema.png"
    assert path_of(job(draft=0.08)) == f"/out/sample/lora_000100_03_{when}_42_draft0.08.png"
    assert path_of(job(priority="interactive")) == f"/out/sample/lora_000100_03_{when}_42_{JOB[:8]}.png"


@pytest.fixture
def time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Moves this process into a time zone."""

    def move(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


def test_the_time_in_a_name_is_the_submitters_wherever_the_worker_is(time_zone: Callable[[str], None]) -> None:
    run = Run(name="r", model=ModelSpec(architecture="wan2.1-t2v"), output_dir="/out")
    time_zone("Pacific/Auckland")
    submitted = build_job(run, Prompt(prompt="a red ball", seed=1), 0, None, 0, None, 1_700_000_000.0)
    time_zone("America/Lima")
    assert path_of(submitted) == "/out/sample/000000_00_20231115111320_1.png"


def test_jobs_of_earlier_versions_have_one_name_on_every_machine(time_zone: Callable[[str], None]) -> None:
    raw = job(local_time=None).encode()
    assert "local_time" not in raw
    time_zone("Asia/Tokyo")
    assert path_of(SampleJob.decode(raw)) == "/out/sample/lora_000100_03_20231114221320_42.png"


@pytest.mark.parametrize("name", ["../escape", "a/b", "/etc/passwd"])
def test_an_output_name_never_leads_out_of_its_directory(name):
    with pytest.raises(ConfigError, match="plain name"):
        path_of(job(output_name=name))
