"""Rushes: sample every checkpoint of a LoRA training run on another GPU while training goes on.

This package is the light client: it needs redis and pydantic, and never imports torch.
"""

from rushes.checkpoints.weights import ExpertPair, LoraState
from rushes.client.client import Client
from rushes.errors import RushesError
from rushes.families.parameters import SampleParameters, resolve
from rushes.families.spec import ArchitectureSpec
from rushes.families.table import architecture
from rushes.prompts.files import load_prompts, parse_line, read_prompts
from rushes.submission.build import Run, build_jobs
from rushes.training.cadence import Cadence
from rushes.training.flags import add_sampling_arguments
from rushes.training.sampler import TrainingSampler
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob, VaeOptions
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobRecord, JobState, SampleResult

__version__ = "0.2.0"

__all__ = [
    "ArchitectureSpec",
    "Cadence",
    "Checkpoint",
    "Client",
    "ExpertPair",
    "JobRecord",
    "JobState",
    "LoraState",
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
