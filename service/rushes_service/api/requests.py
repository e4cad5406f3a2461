"""From a request to the job it asks for."""

from __future__ import annotations

import random

from rushes.checkpoints import read_header
from rushes.jobs import ModelSpec, Prompt, SampleJob
from rushes.prompt_lines import PATH_FIELDS
from rushes.prompts import parse_line
from rushes.submission import SEED_LIMIT, Run, build_jobs, checkpoint_at
from rushes_service.api.paths import Roots
from rushes_service.api.problems import invalid
from rushes_service.api.schemas import SampleRequest

MODEL_FILES = ("dit", "vae", "text_encoder1", "text_encoder2", "t5", "clip", "image_encoder")
"""Fields of `ModelSpec` that are always files; `model` may be a hub id."""


def job_of(request: SampleRequest, roots: Roots) -> SampleJob:
    """The one job of a request.

    Raises:
        InputError: the prompt line, the family or the checkpoint cannot be sampled.
        RequestValidationError: a field contradicts another, or names a file outside the roots.
    """
    checkpoint = None
    if request.checkpoint is not None:
        path = roots.resolve(request.checkpoint, "checkpoint")
        checkpoint = checkpoint_at(path)
        read_header(path)
    run = Run(
        name=request.run,
        model=model_of(request, roots),
        output_dir=output_dir_of(request, roots),
        output_name=request.output_name,
        vae=request.vae,
        priority="interactive",
    )
    prompt = prompt_of(request, roots)
    return build_jobs(run, [prompt], checkpoint=checkpoint, step=request.step, epoch=request.epoch)[0]


def model_of(request: SampleRequest, roots: Roots) -> ModelSpec:
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
        for name in MODEL_FILES
        if getattr(spec, name) is not None
    }
    if spec.model is not None:
        files["model"] = roots.resolve_model(spec.model, "model")
    return spec.model_copy(update=files)


def output_dir_of(request: SampleRequest, roots: Roots) -> str:
    """Where the file goes: below the roots, which the worker shares with us."""
    return str(roots.first) if request.output_dir is None else roots.resolve(request.output_dir, "output_dir")


def prompt_of(request: SampleRequest, roots: Roots) -> Prompt:
    """The prompt with its files below the roots, its strength and a seed.

    The seed is drawn here and not when the job is built: it becomes part of the job's id, so that the same request
    makes another picture each time.
    """
    prompt = request.prompt
    if isinstance(prompt, str):
        prompt = parse_line(prompt, base=roots.first)
    changes: dict[str, object] = {}
    for name in PATH_FIELDS:
        value = getattr(prompt, name)
        if isinstance(value, str):
            changes[name] = roots.resolve(value, f"prompt.{name}")
        elif value:
            changes[name] = tuple(roots.resolve(path, f"prompt.{name}") for path in value)
    if request.strength is not None:
        changes["lora_multiplier"] = request.strength
    if prompt.seed is None:
        changes["seed"] = random.randrange(SEED_LIMIT)
    return prompt.model_copy(update=changes)
