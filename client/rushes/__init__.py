"""Rushes: sample every checkpoint of a LoRA training run on another GPU while training goes on.

This package is the light client: it needs redis and pydantic, and never imports torch.
"""

from rushes.architectures import ArchitectureSpec, architecture
from rushes.cadence import Cadence
from rushes.client import Client
from rushes.errors import RushesError
from rushes.flags import add_sampling_arguments
from rushes.jobs import Checkpoint, JobRecord, JobState, ModelSpec, Prompt, SampleJob, SampleResult, VaeOptions
from rushes.parameters import SampleParameters, resolve
from rushes.prompts import load_prompts, parse_line, read_prompts
from rushes.submission import Run, build_jobs
from rushes.training import TrainingSampler

__version__ = "0.1.0"

__all__ = [
    "ArchitectureSpec",
    "Cadence",
    "Checkpoint",
    "Client",
    "JobRecord",
    "JobState",
    "ModelSpec",
    "Prompt",
    "Run",
    "RushesError",
    "SampleJob",
    "SampleParameters",
    "SampleResult",
    "TrainingSampler",
    "VaeOptions",
    "__version__",
    "add_sampling_arguments",
    "architecture",
    "build_jobs",
    "load_prompts",
    "parse_line",
    "read_prompts",
    "resolve",
]
