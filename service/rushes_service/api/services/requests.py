"""From a request to the job it asks for."""

from __future__ import annotations

import contextlib
import os
import random
from functools import lru_cache

from rushes._files import make_output_directory
from rushes.checkpoints.adapters import adapter_files, checkpoint_header
from rushes.errors import CheckpointError
from rushes.families.prompt_options import PATH_FIELDS
from rushes.prompts.files import parse_line
from rushes.submission.build import SEED_LIMIT, Run, build_jobs, checkpoint_at, extra_loras
from rushes.training.flags import MODEL_FLAGS
from rushes.wire.jobs import Checkpoint, ExtraLora, Prompt, SampleJob
from rushes.wire.models import ModelSpec
from rushes_service.api.http.paths import Roots
from rushes_service.api.http.problems import invalid
from rushes_service.api.schemas import RunFields, SampleRequest
from rushes_service.api.services.uploads import UPLOAD_DIR

BASE = "base"
"""Name of the base model where a checkpoint is named."""


def job_of(request: SampleRequest, roots: Roots) -> SampleJob:
    """The one job of a request.

    Raises:
        InputError: the prompt line, the family or the checkpoint cannot be sampled.
        RequestValidationError: a field contradicts another, or names a file outside the roots.
    """
    checkpoint = checkpoint_of(request.checkpoint, roots)
    prompt = prompt_of(request.prompt, request.strength, roots)
    return build_jobs(run_of(request, roots), [prompt], checkpoint=checkpoint, step=request.step, epoch=request.epoch)[
        0
    ]


def run_of(request: RunFields, roots: Roots) -> Run:
    """The run fields of a request as a `Run`."""
    return Run(
        name=request.run,
        model=model_of(request, roots),
        output_dir=output_dir_of(request, roots),
        output_name=request.output_name,
        vae=request.vae,
        priority="interactive",
        loras=loras_of(request, roots),
        allow_partial_lora=request.allow_partial_lora,
        allow_other_family=request.allow_other_family,
        noise=request.noise,
        draft=request.draft,
    )


def loras_of(request: RunFields, roots: Roots) -> tuple[ExtraLora, ...]:
    """The other LoRAs, read for their hashes."""
    paths = [roots.resolve(lora.path, f"loras.{index}.path") for index, lora in enumerate(request.loras)]
    for path in paths:
        checkpoint_header(path)
    return extra_loras(paths, [lora.strength for lora in request.loras], [lora.expert for lora in request.loras])


def checkpoint_of(text: str | None, roots: Roots) -> Checkpoint | None:
    """The checkpoint that a request names, None for the base model.

    Raises:
        CheckpointError: there is none, or it is not a complete safetensors file.
        RequestValidationError: it lies outside the roots.
    """
    if text is None or text == BASE:
        return None
    path = roots.resolve(text, "checkpoint")
    checkpoint = fingerprinted(path)
    checkpoint_header(path)
    return checkpoint


def fingerprinted(path: str) -> Checkpoint:
    """A checkpoint that stays where it is, by content; a file that has not changed is read once."""
    try:
        weights, config = adapter_files(path)
        found = weights.stat()
    except (OSError, CheckpointError):
        return checkpoint_at(path)
    return read_checkpoint(path, found.st_ino, found.st_size, found.st_mtime_ns, config)


@lru_cache(maxsize=4096)
def read_checkpoint(path: str, *_version: int | str | None) -> Checkpoint:
    """`checkpoint_at`, kept for one version of the file and of the configuration beside it."""
    return checkpoint_at(path)


def model_of(request: RunFields, roots: Roots) -> ModelSpec:
    """The base model, its files below the roots."""
    spec = request.model
    if not isinstance(spec, ModelSpec):
        if request.architecture is None:
            raise invalid("architecture", "name the model family (wan2.1-t2v, say), or give model as an object")
        spec = ModelSpec(architecture=request.architecture, model=spec)
    elif request.architecture not in (None, spec.architecture):
        raise invalid("architecture", f"{request.architecture} here, but {spec.architecture} in model: leave one out")
    files = {
        name: roots.resolve(getattr(spec, name), f"model.{name}")
        for name in MODEL_FLAGS
        if getattr(spec, name) is not None
    }
    if spec.model is not None:
        files["model"] = roots.resolve_model(spec.model, "model")
    return spec.model_copy(update=files)


def output_dir_of(request: RunFields, roots: Roots) -> str:
    """Where the file goes: below the roots, which the worker shares with us."""
    if request.output_dir is None:
        return str(roots.first)
    directory = roots.resolve(request.output_dir, "output_dir")
    make_output_directory(directory)
    return directory


def prompt_of(asked: Prompt | str, strength: float | None, roots: Roots) -> Prompt:
    """The prompt with its files below the roots, its strength and a seed.

    The seed is drawn here and not when the job is built: it becomes part of the job's id, so that the same request
    makes another picture each time.
    """
    prompt = parse_line(asked, base=roots.first) if isinstance(asked, str) else asked
    changes = files_of(prompt, roots)
    if strength is not None:
        changes["lora_multiplier"] = strength
    if prompt.seed is None:
        changes["seed"] = random.randrange(SEED_LIMIT)
    return prompt.model_copy(update=changes)


def files_of(prompt: Prompt, roots: Roots) -> dict[str, object]:
    """The files that a prompt names, as real paths below the roots."""
    changes: dict[str, object] = {}
    for name in PATH_FIELDS:
        value = getattr(prompt, name)
        if isinstance(value, str):
            changes[name] = in_use(roots.resolve(value, f"prompt.{name}"))
        elif value:
            changes[name] = tuple(in_use(roots.resolve(path, f"prompt.{name}")) for path in value)
    return changes


def in_use(path: str) -> str:
    """`path`; if it is an upload, it is young again: its sample's record is not there yet."""
    if UPLOAD_DIR in path:
        with contextlib.suppress(OSError):
            os.utime(path)
    return path
