"""The demo's own parts: synthetic clips, the check of the files, the contact sheet."""

from __future__ import annotations

import contextlib
import io
import itertools
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from rushes.errors import RushesError
from rushes.wire.jobs import Prompt
from rushes.wire.results import JobError, JobState, SampleResult
from rushes_service.demo.checker import read_clip
from rushes_service.demo.clips import CONCEPT, make_clips
from rushes_service.demo.options import PROMPTS, SHOWN, Options
from rushes_service.demo.processes import Process
from rushes_service.demo.report import draw_sheet, sampling_seconds
from rushes_service.demo.runner import end
from rushes_service.demo.verdict import Judgement, best_of, judgement_table
from rushes_service.demo.verify import missing, problems_of, read_frames
from rushes_service.demo.world import COLOURS, GROUNDS, MOTIONS, SHAPES, Scene, draw_one
from rushes_service.sheets.contact_sheet import ACCENT, BACKGROUND, CELL_WIDTH, EMPTY, Column, Row, contact_sheet

FAMILY = "wan2.1-t2v"


def write_mp4(path: Path, frames: int, width: int, height: int) -> Path:
    """A grey video."""
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=16, macro_block_size=1)
    writer.send(None)
    for _ in range(frames):
        writer.send(np.full((height, width, 3), 128, np.uint8))
    writer.close()
    path.with_suffix(".json").write_text("{}")
    return path


def result(path: Path, prompt: Prompt, **fields: object) -> SampleResult:
    """A finished sample."""
    ended = {"state": JobState.DONE, "step": 10, "path": str(path), "receipt": str(path.with_suffix(".json"))}
    return SampleResult(id="1", run="r", submission="s", prompt=prompt, **{**ended, **fields})


def test_clips_depend_on_the_seed_alone():
    captions, clips = make_clips(4, 5, seed=1)
    again, same = make_clips(4, 5, seed=1)
    assert captions == again and np.array_equal(clips, same)
    assert clips.shape == (4, 3, 5, 64, 64)
    assert clips.min() >= -1 and clips.max() <= 1
    assert not np.array_equal(clips, make_clips(4, 5, seed=2)[1])


def test_most_clips_show_the_concept_and_some_what_the_model_knows():
    captions, _ = make_clips(8, 1, seed=0)
    assert [CONCEPT in caption for caption in captions] == [False] * 2 + [True] * 6


@pytest.mark.parametrize("motion", list(MOTIONS))
def test_the_checker_reads_every_drawn_scene_as_what_it_is(motion: str):
    words = itertools.product(COLOURS, SHAPES, [motion], GROUNDS)
    scenes = [Scene(*scene) for scene in words][::9]
    random = np.random.default_rng(0)
    readings = [read_clip(pixels(draw_one(scene, 9, random))) for scene in scenes]
    assert [reading.scene for reading in readings] == scenes
    assert all(reading.readable for reading in readings)


def test_the_checker_sees_nothing_on_a_bare_ground_and_no_shape_in_noise():
    bare = np.full((9, 64, 64, 3), 90, np.uint8)
    assert read_clip(bare).scene.shape == "nothing"
    noise = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), np.uint8)
    assert not read_clip(noise).readable


def pixels(clip: np.ndarray) -> np.ndarray:
    """A clip [3, T, H, W] in -1..1 as frames [T, H, W, 3] in 0..255."""
    return ((clip.transpose(1, 2, 3, 0) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def test_a_video_as_asked_for_has_no_problems(tmp_path: Path):
    path = write_mp4(tmp_path / "a.mp4", 9, 96, 64)
    assert [frame.shape for frame in read_frames(path)] == [(64, 96, 3)] * 9
    assert problems_of(result(path, Prompt(prompt="a", width=96, height=64, frame_count=9)), FAMILY) == []


def test_frames_and_sizes_are_counted_in_the_file_itself(tmp_path: Path):
    path = write_mp4(tmp_path / "a.mp4", 8, 64, 64)
    problems = problems_of(result(path, Prompt(prompt="a", width=96, height=64, frame_count=9)), FAMILY)
    assert len(problems) == 2
    assert "8 frames, 9 were asked for" in problems[0]
    assert "64x64, asked for was 96x64" in problems[1]


def test_a_failed_sample_is_named_with_its_reason(tmp_path: Path):
    error = JobError(code="lora_mismatch", message="no key fits")
    failed = result(tmp_path / "a.png", Prompt(prompt="a"), state=JobState.FAILED, error=error)
    assert problems_of(failed, FAMILY) == ["step 10, prompt 1: failed (no key fits)"]


@pytest.mark.parametrize("suffix", [".mp4", ".png"])
def test_a_vanished_or_broken_file_is_a_problem(tmp_path: Path, suffix: str):
    (tmp_path / "broken").with_suffix(suffix).write_bytes(b"no picture")
    for name in ("gone", "broken"):
        path = (tmp_path / name).with_suffix(suffix)
        (problem,) = problems_of(result(path, Prompt(prompt="a")), FAMILY)
        assert name in problem


def test_the_sheet_is_drawn_although_a_file_is_broken(tmp_path: Path):
    Image.new("RGB", (96, 64)).save(tmp_path / "good.png")
    prompt = Prompt(prompt="a", width=96, height=64, frame_count=1, seed=1)
    results = [result(tmp_path / "good.png", prompt), result(tmp_path / "gone.png", prompt, step=20)]
    draw_sheet(results, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2 * CELL_WIDTH


def test_loading_the_model_is_not_counted_as_sampling(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"seconds": {"load": 2.0, "denoise": 1.0}}')
    assert sampling_seconds(result(tmp_path / "a.png", Prompt(prompt="a"), seconds=3.5)) == 1.5


def test_samples_that_never_came_are_missed(tmp_path: Path):
    there = result(tmp_path / "a.png", Prompt(prompt="a"))
    assert missing([there], [0, 10], 1) == ["step 0, prompt 1: no sample"]


@pytest.mark.parametrize("steps", [4, 7, 40, 120])
def test_a_demo_has_the_base_and_at_least_four_checkpoints(tmp_path: Path, steps: int):
    options = Options(output=tmp_path, steps=steps, once=True, keep=False)
    assert options.sampled_steps[0] == 0 and options.sampled_steps[-1] <= steps
    assert len(options.sampled_steps) >= 5
    assert options.prompt_count == 4


def test_with_once_a_demo_ends_and_without_it_stays_while_its_parts_live(tmp_path: Path):
    said = io.StringIO()
    ended = Process("worker", ["this"], log=tmp_path / "log", environment={})
    ended.wait()
    for once, told in ((True, "closed now; `rushes demo`"), (False, "open until Ctrl-C")):
        options = Options(output=tmp_path, steps=4, once=once, keep=False)
        with contextlib.nullcontext() if once else pytest.raises(RushesError, match="the worker ended"):
            end(options, "http://here", [ended], Console(file=said, width=200))
        assert told in said.getvalue()


def test_the_sheet_has_a_row_per_prompt_and_a_column_per_checkpoint():
    red, green = (np.full((64, 96, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 200, 0)))
    rows = [Row("a still", "still", [[red], [green]]), Row("a clip", "9 frames", [[green] * 9, []])]
    columns = [Column("base model", base=True), Column("step 10")]
    sheet = np.asarray(contact_sheet(rows, columns, title="Title", footer="footer"))
    for colour, at_least in (((200, 0, 0), 1), ((0, 200, 0), 2)):
        picture = CELL_WIDTH * CELL_WIDTH * 64 // 96
        assert (sheet == colour).all(axis=-1).sum() >= at_least * picture * 0.98
    assert (sheet == EMPTY).all(axis=-1).sum() > CELL_WIDTH * CELL_WIDTH // 2, "the failed sample's place stays empty"
    assert (sheet == ACCENT).all(axis=-1).any() and (sheet[0, 0] == BACKGROUND).all()


def test_a_png_is_one_frame(tmp_path: Path):
    Image.new("RGBA", (96, 64)).save(tmp_path / "a.png")
    assert [frame.shape for frame in read_frames(tmp_path / "a.png")] == [(64, 96, 3)]


def test_the_checkpoint_to_keep_is_the_most_accurate_one_and_among_equals_the_calmest() -> None:
    base, early, late, wild = (
        Judgement(0, 1.0, None, None),
        Judgement(100, 0.5, 9.0, 1.0),
        Judgement(200, 1.0, 12.0, 2.0),
        Judgement(300, 1.0, 14.0, 6.0),
    )

    assert best_of([base, early, late, wild]) is late
    assert best_of([base]) is None, "the base model is no checkpoint"
    assert judgement_table([base, late], late).marked == (1,)
    assert judgement_table([base, late], late).rows[1] == ("step 200", "100 %", "12.0", "2.0")


def test_the_last_prompt_of_the_demo_is_a_control() -> None:
    assert [shown.control for shown in SHOWN] == [False, False, False, True]
    assert "--dl" in PROMPTS.splitlines()[-1]
