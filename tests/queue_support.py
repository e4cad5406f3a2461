"""Jobs and reservations for the tests of the queue and the worker."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from rushes.submission.build import Run, build_job
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob
from rushes.wire.models import ModelSpec

MODEL = ModelSpec(architecture="wan2.1-t2v", model="/models/tiny")


def make_job(
    text: str = "a red ball",
    *,
    run: str = "run",
    model: ModelSpec = MODEL,
    output_dir: Path | str = "/dev/null/nowhere",
    checkpoint: Checkpoint | None = None,
    step: int = 0,
    index: int = 0,
    **prompt: object,
) -> SampleJob:
    """A job as a trainer's client would make it."""
    asked = Prompt(prompt=text, **{"seed": 1, **prompt})  # type: ignore[arg-type]
    shared = Run(name=run, model=model, output_dir=str(output_dir), output_name="lora")
    return build_job(shared, asked, index, checkpoint, step, None, 1_700_000_000.0)


def empty_safetensors(path: Path) -> Path:
    """The smallest complete safetensors file."""
    header = json.dumps({}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path
