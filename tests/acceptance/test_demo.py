"""`rushes demo` as a person runs it: every part a real process, on the CPU, without network."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rushes import ModelSpec, load_prompts
from rushes.wire.jobs import SampleJob
from rushes_service.demo.runner import TINY_WORLD
from rushes_service.demo.verify import read_frames
from rushes_service.engine.engine import Engine
from support import wait_until

STEPS = (0, 5, 10, 15, 20)
"""Sampled steps of a demo of 20."""

MARK = "TEST_DEMO_MARK"
"""An environment variable that every process of one demo inherits, to find those that were left behind."""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
pytestmark = pytest.mark.timeout(1200)


@dataclass
class Demo:
    """A demo that was ended by Ctrl-C after all its samples; `health`: the status of its gallery before that."""

    output: Path
    code: int
    said: str
    mark: str
    health: int

    def frames(self, step: int, prompt: int) -> np.ndarray:
        """The sample of a step: uint8 [frames, H, W, 3]."""
        (path,) = self.output.glob(f"sample/demo_{step:06d}_{prompt:02d}_*.[pm][np][g4]")
        return np.stack(read_frames(path))


def command(output: Path, *flags: str) -> list[str]:
    """`rushes demo` of 20 steps."""
    return [sys.executable, "-m", "rushes", "demo", "--output", str(output), "--steps", "20", *flags]


def marked_environment(mark: str) -> dict[str, str]:
    """The environment of a demo whose processes are to be found again."""
    return {**os.environ, MARK: mark, "HF_HUB_OFFLINE": "1"}


def processes(mark: str) -> dict[int, str]:
    """Process ids and command lines of the living processes of one demo."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return {pid: line for pid, line in found.items() if line}


def worker_of(mark: str) -> int | None:
    """Process id of a demo's worker, once it has become one."""
    return next((pid for pid, line in processes(mark).items() if f"{sys.executable} -m rushes worker" in line), None)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One demo, run until its gallery is all that is left of it, and ended by Ctrl-C."""
    output, mark = tmp_path_factory.mktemp("demo") / "demo-output", uuid.uuid4().hex
    process = subprocess.Popen(
        command(output),
        env=marked_environment(mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said, health = "", 0
    for line in process.stdout:
        said += line
        if "open until Ctrl-C" in line:
            (address,) = re.findall(r"http://127\.0\.0\.1:\d+", line)
            with urllib.request.urlopen(address + "/healthz", timeout=10) as answer:
                health = answer.status
            process.send_signal(signal.SIGINT)
    return Demo(output, process.wait(), said, mark, health)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path, str]]:
    """A demo that stays up: its process, output directory and mark."""
    output, mark = tmp_path / "demo-output", uuid.uuid4().hex
    # A demo that is killed outright cannot remove its temporary directory: it gets one that goes with the test.
    own = tmp_path / "tmp"
    own.mkdir()
    process = subprocess.Popen(
        command(output),
        env={**marked_environment(mark), "TMPDIR": str(own)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process, output, mark
    process.kill()
    process.communicate()


def test_it_ends_well_and_says_where_everything_is(demo: Demo):
    assert demo.code == 0, demo.said
    assert "failed" not in demo.said
    for word in (
        "contact-sheet.png",
        "http://127.0.0.1:",
        "with Rushes",
        "inside the trainer",
        "base model",
        "Which checkpoint to keep: step ",
        "report/index.html",
    ):
        assert word in demo.said


def test_every_checkpoint_has_a_file_of_the_asked_size_and_length_for_each_prompt(demo: Demo):
    prompts = load_prompts(demo.output / "prompts.txt")
    assert {prompt.frame_count for prompt in prompts} == {1, 17}
    for step in STEPS:
        for index, prompt in enumerate(prompts):
            assert demo.frames(step, index).shape == (prompt.frame_count, prompt.height, prompt.width, 3)
    files = sorted(path.suffix for path in (demo.output / "sample").iterdir())
    assert files == [".json"] * 20 + [".mp4"] * 15 + [".png"] * 5


def test_every_checkpoint_changes_the_pictures_of_the_concept(demo: Demo):
    for index in range(3):
        pictures = [demo.frames(step, index) for step in STEPS]
        assert not any(np.array_equal(before, after) for before, after in itertools.pairwise(pictures))
        assert np.abs(pictures[0].astype(int) - pictures[-1].astype(int)).mean() > 1


def test_step_0_is_the_base_model_itself(demo: Demo, tmp_path: Path):
    index, prompt = next((i, p) for i, p in enumerate(load_prompts(demo.output / "prompts.txt")) if p.frame_count == 1)
    job = SampleJob(
        id="base",
        run="test",
        submission="test",
        model=ModelSpec(architecture="wan2.1-t2v", model=str(TINY_WORLD)),
        prompt=prompt,
        output_dir=str(tmp_path),
    )
    (frame,) = Engine("cpu", tmp_path / "cache").denoise(job, Indifferent()).frames()
    assert np.array_equal(demo.frames(0, index)[0], frame)


def test_receipts_name_the_checkpoint_that_was_sampled(demo: Demo):
    fingerprints = set()
    for path in (demo.output / "sample").glob("*.json"):
        receipt = json.loads(path.read_text())
        is_base = re.match(r"demo_000000_", path.name) is not None
        assert (receipt["lora"] is None) == is_base
        if not is_base:
            fingerprints.add(receipt["lora"]["fingerprint"])
    assert len(fingerprints) == len(STEPS) - 1


def test_the_contact_sheet_is_a_picture_of_all_of_them(demo: Demo):
    with Image.open(demo.output / "contact-sheet.png") as sheet:
        assert sheet.width > 1200 and sheet.height > 500


@linux
def test_nothing_is_left_running(demo: Demo):
    assert processes(demo.mark) == {}


def test_it_stays_up_with_its_gallery_until_ctrl_c(demo: Demo):
    assert demo.health == 200, demo.said
    assert "Traceback" not in demo.said


@linux
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_however_it_is_ended_early_its_children_end_too(
    started: tuple[subprocess.Popen[str], Path, str], signum: signal.Signals, code: int
):
    process, _, mark = started
    wait_until(lambda: worker_of(mark), 60, "the worker to be started")
    process.send_signal(signum)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "Traceback" not in said
    wait_until(lambda: not processes(mark), 30, "every child to end")


@linux
def test_a_worker_that_dies_ends_the_demo_and_is_named(started: tuple[subprocess.Popen[str], Path, str]):
    process, output, mark = started
    os.kill(wait_until(lambda: worker_of(mark), 60, "the worker to be started"), signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert f"the worker ended (killed by SIGKILL); its log {output / 'logs' / 'worker.log'}" in said
    assert processes(mark) == {}


def test_an_output_that_cannot_be_written_is_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    ended = subprocess.run(
        command(tmp_path / "file" / "demo", "--once"), capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode != 0
    assert "--output" in ended.stderr and "Traceback" not in ended.stderr


class Indifferent:
    """A watch that lets everything pass."""

    def stage(self, name: str, total: int = 0) -> None:
        """A stage begins."""

    def step(self, done: int, total: int) -> None:
        """A step is done."""


def test_the_drift_of_every_checkpoint_is_measured_and_in_the_report(demo: Demo):
    receipts = [json.loads(path.read_text()) for path in (demo.output / "sample").glob("*.json")]
    drifts = {
        (receipt["step"], receipt["prompt_index"]): receipt["drift"]["pixels"]
        for receipt in receipts
        if receipt["step"]
    }
    learned = {step: sum(drifts[step, index] for index in range(3)) / 3 for step in STEPS[1:]}

    assert learned[STEPS[-1]] > learned[STEPS[1]], "it rises"
    assert all((step, 3) in drifts for step in STEPS[1:]), "the control's, too"
    page = (demo.output / "report" / "index.html").read_text()
    assert page.count("<polyline") == 8 and page.count('class="control"') == 2
