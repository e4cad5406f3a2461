"""Jobs like those of existing samples: the same run and checkpoint, with changes."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

from starlette.exceptions import HTTPException

from rushes.errors import CheckpointMissing
from rushes.families.parameters import resolve
from rushes.submission.build import SEED_LIMIT, Run, build_job, sampled_architecture
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob
from rushes.wire.results import JobRecord
from rushes_service.api.http.paths import Roots
from rushes_service.api.schemas import ResampleRequest
from rushes_service.api.services.requests import BASE, checkpoint_of, files_of, fingerprinted
from rushes_service.catalogue.checkpoints import existing


def changed(record: JobRecord, asked: ResampleRequest, roots: Roots) -> SampleJob:
    """The job of `record` with the changes of a request.

    Raises:
        HTTPException: this version cannot read the record's job.
        InputError: the prompt, the family or the checkpoint cannot be sampled.
    """
    job = record.job
    if job is None:
        raise HTTPException(409, "this version cannot read what was asked for: ask for a new sample")
    checkpoint = kept(job.checkpoint) if asked.checkpoint is None else checkpoint_of(asked.checkpoint, roots)
    step = 0 if asked.checkpoint == BASE else job.step if asked.step is None else asked.step
    epoch = job.epoch if step == job.step else None
    prompt = changed_prompt(job.prompt, asked, roots)
    resolve(prompt, sampled_architecture(job.model.architecture), job.model)
    run = run_like(job) if asked.draft is None else replace(run_like(job), draft=asked.draft)
    return build_job(run, prompt, job.prompt_index, checkpoint, step, epoch, time.time())


def changed_prompt(prompt: Prompt, asked: ResampleRequest, roots: Roots) -> Prompt:
    """The prompt with changed fields; files that a change names lie below the roots."""
    changes: dict[str, Any] = {name: getattr(asked.prompt, name) for name in asked.prompt.model_fields_set}
    changes |= files_of(asked.prompt, roots)
    if changes.get("prompt", "") is None:
        del changes["prompt"]
    if "seed" in changes and changes["seed"] is None:
        changes["seed"] = random.randrange(SEED_LIMIT)
    if asked.strength is not None:
        changes["lora_multiplier"] = asked.strength
    return prompt.model_copy(update=changes)


def run_like(job: SampleJob) -> Run:
    """The run of a job, at interactive priority."""
    return Run(
        name=job.run,
        model=job.model,
        output_dir=job.output_dir,
        output_name=job.output_name,
        vae=job.vae,
        priority="interactive",
        loras=job.loras,
        allow_partial_lora=job.allow_partial_lora,
        allow_other_family=job.allow_other_family,
        noise=job.noise,
        draft=job.draft,
    )


def kept(checkpoint: Checkpoint | None) -> Checkpoint | None:
    """The current path of a checkpoint that was sampled before. Our snapshot is used while it exists.

    Raises:
        CheckpointMissing: neither the link nor the trainer's file is there any more.
    """
    if checkpoint is None:
        return None
    path = existing({**checkpoint.model_dump(), "source": None})
    if path is not None:
        return checkpoint
    source = existing(checkpoint.model_dump())
    if source is None:
        name = checkpoint.source or checkpoint.path
        raise CheckpointMissing(f"{name} is gone, so it cannot be sampled again: name another checkpoint, or `base`")
    return fingerprinted(source)
