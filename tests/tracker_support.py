"""Results with real pictures and clips, for the tests of trackers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
from PIL import Image

from queue_support import make_job
from rushes import SampleResult
from rushes.wire.results import JobState

SIDE = 16


def picture(directory: Path, step: int, index: int = 0) -> SampleResult:
    """A result whose picture has a colour of its own."""
    path = directory / f"{step}-{index}.png"
    Image.new("RGB", (SIDE, SIDE), (step % 256, index, 7)).save(path)
    return result_of(path, step, index, media_type="image/png")


def clip(directory: Path, step: int, index: int = 0, frames: int = 5) -> SampleResult:
    """A result with a short mp4."""
    path = directory / f"{step}-{index}.mp4"
    source = f"testsrc=size={SIDE}x{SIDE}:rate=8:duration={frames / 8}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p"]
    subprocess.run([*command, "-y", str(path)], check=True)
    return result_of(path, step, index, media_type="video/mp4", frame_count=frames, fps=8.0)


def failed(step: int) -> SampleResult:
    """A result without a picture."""
    return SampleResult.of(make_job(step=step), JobState.FAILED)


def result_of(path: Path, step: int, index: int, **fields: object) -> SampleResult:
    job = make_job(f"prompt {index}", step=step, index=index, run="mine")
    return SampleResult.of(job, JobState.DONE, path=str(path), width=SIDE, height=SIDE, **fields)
