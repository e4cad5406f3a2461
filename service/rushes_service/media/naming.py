"""File names of samples: those that trainers give theirs, so that existing viewers and scripts find them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from rushes.errors import ConfigError
from rushes.families.parameters import SampleParameters
from rushes.submission.build import file_time
from rushes.wire.jobs import SampleJob

SAMPLE_DIR = "sample"

MediaType = Literal["image/png", "video/mp4"]

MEDIA_TYPES: Mapping[str, MediaType] = {".png": "image/png", ".mp4": "video/mp4"}
"""Media types by suffix, in lower case."""


def sample_path(job: SampleJob, parameters: SampleParameters) -> Path:
    """`<output_dir>/sample/[<output_name>_]<e000001|000100>_<index>_<YYYYmmddHHMMSS>_<seed>[_<label>][_draft<threshold>].png|mp4`.

    The time is that of submission, by the submitter's clock and time zone, so that a retry on any machine writes the
    same file. Interactive samples also carry their id: several may share all the rest.

    Raises:
        ConfigError: the output name is no plain file name.
    """
    when = job.local_time or file_time(time.gmtime(job.submitted_at))
    progress = f"{job.step:06d}" if job.epoch is None else f"e{job.epoch:06d}"
    parts = [progress, f"{job.prompt_index:02d}", when, str(parameters.seed)]
    if job.output_name:
        if Path(job.output_name).name != job.output_name:
            raise ConfigError(f"output name {job.output_name!r} must be a plain name, without directories")
        parts.insert(0, job.output_name)
    if job.label:
        parts.append(job.label)
    if job.draft is not None:
        parts.append(f"draft{job.draft}")
    if job.priority == "interactive":
        parts.append(job.id[:8])
    suffix = ".png" if parameters.frame_count == 1 else ".mp4"
    return Path(job.output_dir) / SAMPLE_DIR / ("_".join(parts) + suffix)
