"""The samples of a grid: checkpoints x prompts x strengths x seeds; only missing ones are queued."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from rushes.checkpoints.adapters import checkpoint_header
from rushes.errors import CheckpointError, CheckpointMissing
from rushes.families.parameters import resolve
from rushes.submission.build import Run, build_job, sampled_architecture, seed_for
from rushes.submission.sweeps import sweep_jobs, sweep_run
from rushes.wire.base import digest
from rushes.wire.jobs import BASE_MODEL, Checkpoint, ExtraLora, Prompt, SampleJob
from rushes.wire.results import JobState
from rushes_service.api.context import Context
from rushes_service.api.http.problems import invalid
from rushes_service.api.schemas import GridAnswer, GridRequest, SweepRequest
from rushes_service.api.services.requests import checkpoint_of, fingerprinted, prompt_of, run_of
from rushes_service.api.services.resubmit import kept, run_like
from rushes_service.catalogue.checkpoints import checkpoints_of, on_disk
from rushes_service.catalogue.entries import Entry
from rushes_service.catalogue.grid import content_of
from rushes_service.catalogue.reading import read_entries

MAX_SAMPLES = 2000
"""Samples that one request may queue; days of work on one GPU."""

OPEN_OR_DONE = frozenset({JobState.QUEUED.value, JobState.RUNNING.value, JobState.DONE.value})


@dataclass(frozen=True)
class Target:
    """A column of the grid: a checkpoint, or None for the base model."""

    checkpoint: Checkpoint | None
    step: int = 0
    epoch: int | None = None


def submit_missing(asked: GridRequest, context: Context) -> GridAnswer:
    """Work out the grid and queue its missing samples.

    Raises:
        RequestValidationError: there is nothing to make it of, or it is too large.
        InputError: a prompt or the family cannot be sampled.
    """
    entries = list(read_entries(context.client, asked.run))
    run = template(asked, entries, context)
    targets, skipped = targets_of(asked, entries, context)
    jobs = list(combined(run, asked, prompts_of(asked, entries, context), targets))
    there = {identity(entry.job) for entry in entries if entry.state in OPEN_OR_DONE}
    missing = {identity(job.model_dump(mode="json", exclude_defaults=True)): job for job in jobs}
    new = [job for place, job in missing.items() if place not in there]
    if len(new) > MAX_SAMPLES:
        raise invalid("checkpoints", f"the grid lacks {len(new)} samples; ask for at most {MAX_SAMPLES} at once")
    context.client.submit(new)
    return GridAnswer(
        run=asked.run,
        samples=tuple(job.id for job in new),
        existing=len(missing) - len(new),
        skipped=tuple(skipped),
    )


def submit_sweep(job_id: str, asked: SweepRequest, context: Context) -> GridAnswer:
    """Queue the checkpoint of a sample at other strengths and seeds, as a run of its own.

    Raises:
        HTTPException: the sample shows the base model, or this version cannot read it (409).
        CheckpointMissing: the checkpoint is gone.
        RequestValidationError: these are too many samples.
    """
    job = context.client.get(job_id).job
    if job is None or job.checkpoint is None:
        raise HTTPException(409, "this sample has no checkpoint whose strength could change: choose another one")
    checkpoint = kept(job.checkpoint)
    assert checkpoint is not None
    prompts = [(job.prompt_index, job.prompt)]
    if asked.prompts == "all":
        like = [
            entry.job
            for entry in read_entries(context.client, job.run)
            if step_and_weights(entry.job) == (job.step, job.checkpoint.fingerprint)
        ]
        by_index = {found.get("prompt_index", 0): Prompt.model_validate(found["prompt"]) for found in like}
        prompts = sorted({**by_index, job.prompt_index: job.prompt}.items())
    run = sweep_run(replace(run_like(job), draft=asked.draft), job.step)
    jobs = list(
        sweep_jobs(
            run, prompts, checkpoint, step=job.step, epoch=job.epoch, strengths=asked.strengths, seeds=asked.seeds
        )
    )
    if len(jobs) > MAX_SAMPLES:
        raise invalid("strengths", f"these are {len(jobs)} samples; ask for at most {MAX_SAMPLES} at once")
    there = {entry.id for entry in read_entries(context.client, run.name) if entry.state in OPEN_OR_DONE}
    new = [job for job in jobs if job.id not in there]
    context.client.submit(new)
    return GridAnswer(run=run.name, samples=tuple(job.id for job in new), existing=len(jobs) - len(new))


def step_and_weights(job: Mapping[str, Any]) -> tuple[int, str | None]:
    """Training step and fingerprint of a job's checkpoint."""
    return job.get("step", 0), (job.get("checkpoint") or {}).get("fingerprint")


def template(asked: GridRequest, entries: list[Entry], context: Context) -> Run:
    """Model and output of the run's newest sample, else of the request."""
    newest = next((entry for entry in entries if entry.job), None)
    if newest is None or asked.model is not None or asked.architecture is not None:
        return run_of(asked, context.roots)
    run = run_like(SampleJob.model_validate(newest.job))
    loras = run_of(asked.model_copy(update={"model": run.model}), context.roots).loras if asked.loras else run.loras
    # A draft among the samples makes no draft of what is asked for now.
    return replace(run, loras=loras, draft=asked.draft)


def prompts_of(asked: GridRequest, entries: list[Entry], context: Context) -> list[tuple[int, Prompt]]:
    """The rows: index and prompt, each with a seed."""
    known = {entry.id: entry.job for entry in entries if entry.job.get("prompt")}
    missing = next((job_id for job_id in asked.samples if job_id not in known), None)
    if missing is not None:
        raise invalid("samples", f"the run {asked.run!r} has no sample {missing}")
    chosen = [known[job_id] for job_id in asked.samples]
    if not asked.samples and not asked.prompts:
        chosen = list({digest(content_of(job)): job for job in known.values()}.values())
    rows = [(job.get("prompt_index", 0), Prompt.model_validate(job["prompt"])) for job in chosen]
    following = 1 + max((job.get("prompt_index", 0) for job in known.values()), default=-1)
    own = [prompt_of(prompt, None, context.roots) for prompt in asked.prompts]
    rows += [(index_of(prompt, known.values(), following + place), prompt) for place, prompt in enumerate(own)]
    if not rows:
        raise invalid("prompts", f"the run {asked.run!r} has no prompt yet: give one")
    return rows


def index_of(prompt: Prompt, jobs: Iterable[dict[str, object]], otherwise: int) -> int:
    """The row that a prompt has already, so that it stays the same sample; else a new one."""
    wanted = content_of({"prompt": prompt.model_dump(mode="json", exclude_defaults=True)})
    return next((int(job.get("prompt_index", 0)) for job in jobs if content_of(job) == wanted), otherwise)  # type: ignore[call-overload]


def targets_of(asked: GridRequest, entries: list[Entry], context: Context) -> tuple[list[Target], list[str]]:
    """The columns, and the checkpoints that cannot be sampled any more with the reason."""
    targets = [Target(None)] if asked.base else []
    skipped: list[str] = []
    sampled: dict[tuple[str, int], Target] = {}
    for entry in entries:
        if entry.job.get("checkpoint"):
            checkpoint = Checkpoint.model_validate(entry.job["checkpoint"])
            place = (checkpoint.fingerprint, entry.job.get("step", 0))
            sampled.setdefault(place, Target(checkpoint, entry.job.get("step", 0), entry.job.get("epoch")))
    if isinstance(asked.checkpoints, tuple):
        return targets + named(asked.checkpoints, context), skipped
    for target in sampled.values():
        try:
            targets.append(Target(kept(target.checkpoint), target.step, target.epoch))
        except CheckpointMissing as error:
            skipped.append(str(error))
    if asked.checkpoints == "all":
        targets += never_sampled(asked.run, context, skipped)
    return targets, skipped


def named(paths: tuple[str, ...], context: Context) -> list[Target]:
    """Checkpoints that a request names by path; their steps by their metadata or names."""
    found = []
    for path in paths:
        checkpoint = checkpoint_of(path, context.roots)
        about = on_disk(Path(checkpoint.path)) if checkpoint else None
        found.append(Target(checkpoint, about.step if about else 0, about.epoch if about else None))
    return found


def never_sampled(run: str, context: Context, skipped: list[str]) -> Iterator[Target]:
    """Checkpoints that lie in the run's directories and have no sample."""
    for known in checkpoints_of(context.client, run, context.roots.holds):
        if known.samples:
            continue
        try:
            checkpoint_header(known.path)
            yield Target(fingerprinted(known.path), known.step, known.epoch)
        except CheckpointError as error:
            skipped.append(str(error))


def combined(
    run: Run, asked: GridRequest, rows: list[tuple[int, Prompt]], targets: list[Target]
) -> Iterator[SampleJob]:
    """Every sample of the grid. The base model has no strength: it is there once per prompt and seed."""
    spec = sampled_architecture(run.model.architecture)
    now = time.time()
    for index, prompt in rows:
        resolve(prompt, spec, run.model)
        drawn = seed_for(prompt, run.model)
        for seed in asked.seeds or (drawn,):
            for target in targets:
                for strength in asked.strengths if target.checkpoint else (None,):
                    changes = {"seed": seed, "lora_multiplier": strength if strength != 1.0 else None}
                    asked_prompt = prompt.model_copy(update=changes)
                    yield build_job(run, asked_prompt, index, target.checkpoint, target.step, target.epoch, now)


def identity(job: dict[str, object]) -> str:
    """Key of a sample's picture: weights, strength, prompt, seed, and whether it is a draft."""
    prompt: dict[str, object] = job.get("prompt") or {}  # type: ignore[assignment]
    checkpoint: dict[str, object] = job.get("checkpoint") or {}  # type: ignore[assignment]
    strength = prompt.get("lora_multiplier")
    strength = 1.0 if strength is None else strength
    weights = checkpoint.get("fingerprint", BASE_MODEL) if strength else BASE_MODEL
    content = {name: value for name, value in content_of(job).items() if value not in (None, [], ())}
    loras = [ExtraLora.model_validate(lora).identity for lora in job.get("loras") or []]  # type: ignore[attr-defined]
    strength = strength if weights != BASE_MODEL else 0
    return digest([weights, strength, content, prompt.get("seed"), loras, job.get("draft")])
