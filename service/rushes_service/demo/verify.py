"""Checks that a demo's files are as requested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from rushes.families.parameters import resolve
from rushes.families.table import architecture
from rushes.wire.results import JobState, SampleResult


def read_frames(path: Path) -> list[np.ndarray]:
    """Every frame of a png or mp4 file, uint8 [H, W, 3].

    Raises:
        OSError: the file is missing or cannot be decoded.
    """
    if path.suffix == ".png":
        with Image.open(path) as image:
            return [np.asarray(image.convert("RGB"))]
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def problems_of(result: SampleResult, family: str) -> list[str]:
    """Problems of one sample, a line each; empty if it is as requested."""
    name = f"step {result.step}, prompt {result.prompt_index + 1}"
    if result.state is not JobState.DONE or result.path is None:
        reason = result.error.message if result.error else "no reason given"
        return [f"{name}: {result.state.value} ({reason})"]
    try:
        frames = read_frames(Path(result.path))
    except OSError as error:
        return [f"{name}: {error}"]
    asked, _ = resolve(result.prompt, architecture(family))
    problems = []
    if len(frames) != asked.frame_count:
        problems.append(f"{name}: {result.path} has {len(frames)} frames, {asked.frame_count} were asked for")
    sizes = {f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames}
    if sizes - {f"{asked.width}x{asked.height}"}:
        problems.append(f"{name}: {result.path} is {', '.join(sizes)}, asked for was {asked.width}x{asked.height}")
    if result.receipt is None or not Path(result.receipt).is_file():
        problems.append(f"{name}: {result.path} has no receipt")
    return problems


def missing(results: Sequence[SampleResult], steps: Sequence[int], prompts: int) -> list[str]:
    """Samples that were not submitted or did not end."""
    ended = {(result.step, result.prompt_index) for result in results}
    wanted = [(step, index) for step in steps for index in range(prompts)]
    return [f"step {step}, prompt {index + 1}: no sample" for step, index in wanted if (step, index) not in ended]
