"""From one checkpoint and a list of prompts to the jobs of a submission."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rushes._paths import absolute
from rushes.checkpoints.adapters import checkpoint_fingerprint
from rushes.checkpoints.file_names import expert_in_name
from rushes.checkpoints.store import check_url
from rushes.errors import ArchitectureError, CheckpointError, CheckpointMissing, ConfigError, PromptError
from rushes.families.drafts import check_draft, draft_threshold
from rushes.families.parameters import resolve
from rushes.families.spec import ArchitectureSpec
from rushes.families.table import architecture
from rushes.prompts.files import PromptLine, warning_lines
from rushes.wire.base import digest, unicode_text
from rushes.wire.ids import job_id
from rushes.wire.jobs import (
    BASE_MODEL,
    Checkpoint,
    ExtraLora,
    Keep,
    NoiseSource,
    Priority,
    Prompt,
    SampleJob,
    VaeOptions,
)
from rushes.wire.models import Expert, ModelSpec
from rushes.wire.results import JobError

logger = logging.getLogger("rushes")

SEED_LIMIT = 2**32
"""Drawn seeds are below this: short enough to be typed again, and what other tools draw from."""

DEFAULT_VAE = VaeOptions()


@dataclass(frozen=True)
class Run:
    """What all samples of one training run have in common.

    `output_dir` is the trainer's own; media files go to `<output_dir>/sample/`. `loras` are merged into every sample
    beside its checkpoint. With `staging`, an fsspec URL, files reach the workers by way of a store, and media are
    written there.
    """

    name: str
    model: ModelSpec
    output_dir: str
    output_name: str | None = None
    vae: VaeOptions = DEFAULT_VAE
    priority: Priority = "training"
    keep: Keep = "all"
    loras: tuple[ExtraLora, ...] = ()
    allow_partial_lora: bool = False
    allow_other_family: bool = False
    noise: NoiseSource = "device"
    draft: float | bool | None = None
    """Makes drafts, see `SampleJob.draft`; True at the usual threshold."""

    label: str | None = None
    """See `SampleJob.label`."""

    staging: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "draft", draft_threshold(self.draft))
        if self.draft is not None:
            check_draft(self.model.architecture)
        if self.staging is not None:
            object.__setattr__(self, "staging", check_url(self.staging))
        files = [*self.model.model_dump().values(), *(lora.path for lora in self.loras)]
        for text in (self.name, self.output_dir, self.output_name, *files):
            if isinstance(text, str) and unicode_text(text) != text:
                raise ConfigError(
                    f"{text!r} is not Unicode; run, output, base model and LoRAs need names that every machine has"
                )


def run_name(output_dir: str | Path, output_name: str | None) -> str:
    """A name for a run after its output, so that two runs with different outputs never share it."""
    directory = absolute(output_dir)
    return f"{output_name or directory.name}-{digest(str(directory), digits=6)}"


@dataclass(frozen=True)
class Refused:
    """A prompt that cannot be sampled: its job, for the record, and why."""

    job: SampleJob
    error: JobError


def build_jobs(
    run: Run,
    prompts: Iterable[Prompt],
    *,
    checkpoint: Checkpoint | None = None,
    step: int = 0,
    epoch: int | None = None,
    submitted_at: float | None = None,
) -> list[SampleJob]:
    """The jobs of one submission. A prompt without a seed gets a random one, which a retry keeps.

    Raises:
        ArchitectureError, PromptError: the family cannot sample one of the prompts.
    """
    spec = sampled_architecture(run.model.architecture)
    jobs: list[SampleJob] = []
    for index, prompt in enumerate(prompts):
        resolve(prompt, spec, run.model)
        jobs.append(build_job(run, prompt, index, checkpoint, step, epoch, submitted_at or time.time()))
    return jobs


def build_from_lines(
    run: Run, lines: Iterable[PromptLine], *, checkpoint: Checkpoint | None, step: int, epoch: int | None
) -> tuple[list[SampleJob], list[Refused]]:
    """The jobs of a prompt file; a bad line is refused by itself and takes no other with it."""
    spec = sampled_architecture(run.model.architecture)
    submitted_at = time.time()
    jobs: list[SampleJob] = []
    refused: list[Refused] = []
    for line in lines:
        prompt = line.prompt or Prompt(prompt=line.text)
        job = build_job(run, prompt, line.index, checkpoint, step, epoch, submitted_at)
        error = problem(line, spec, run.model)
        if error is None:
            jobs.append(job)
        else:
            refused.append(Refused(job, JobError(code=error.code, message=str(error))))
    return jobs, refused


def problem(
    line: PromptLine, spec: ArchitectureSpec, model: ModelSpec | None = None
) -> PromptError | ArchitectureError | None:
    """Why a line of a prompt file cannot be sampled, with its place; None if it can."""
    try:
        if line.prompt is None:
            raise line.error or PromptError("not a prompt")
        resolve(line.prompt, spec, model)
    except PromptError as error:
        return error if error.file else PromptError(error.message, file=line.file, line=line.line)
    except ArchitectureError as error:
        return ArchitectureError(f"{line.file}:{line.line}: {error}")
    return None


def check_prompts(run: Run, lines: Iterable[PromptLine]) -> list[Prompt]:
    """The prompts of a file, all of which can be sampled. What may have been meant otherwise is logged.

    Raises:
        ArchitectureError, PromptError: what is wrong with the first that cannot, or with the family.
    """
    spec = sampled_architecture(run.model.architecture)
    prompts: list[Prompt] = []
    for line in lines:
        if error := problem(line, spec, run.model):
            raise error
        for warning in warning_lines([line]):
            logger.warning("%s", warning)
        prompts.append(line.prompt or Prompt(prompt=line.text))
    return prompts


def seed_for(prompt: Prompt, model: ModelSpec, count: int = 1) -> int:
    """The prompt's own seed, or the family's, or one that is drawn and has `count - 1` others behind it."""
    own = architecture(model.architecture).seed if prompt.seed is None else prompt.seed
    return random.randrange(SEED_LIMIT - count + 1) if own is None else own


def build_job(
    run: Run,
    prompt: Prompt,
    index: int,
    checkpoint: Checkpoint | None,
    step: int,
    epoch: int | None,
    submitted_at: float,
) -> SampleJob:
    """One job; its id is made from the prompt as asked for, before a seed is drawn."""
    weights = checkpoint.fingerprint if checkpoint else BASE_MODEL
    checkpoint, loras = with_experts(run, checkpoint)
    seed = seed_for(prompt, run.model)
    return SampleJob(
        id=job_id(
            run=run.name,
            model=run.model,
            checkpoint_fingerprint=weights,
            prompt=prompt,
            prompt_index=index,
            step=step,
            loras=loras,
            allow_partial_lora=run.allow_partial_lora,
            allow_other_family=run.allow_other_family,
            expert=checkpoint.expert if checkpoint else None,
            vae=run.vae,
            output=None if run.name == run_name(run.output_dir, run.output_name) else (run.output_dir, run.output_name),
            noise=run.noise,
            draft=run.draft,
        ),
        run=run.name,
        submission=digest([run.name, weights, step]),
        model=run.model,
        vae=run.vae,
        checkpoint=checkpoint,
        loras=loras,
        allow_partial_lora=run.allow_partial_lora,
        allow_other_family=run.allow_other_family,
        noise=run.noise,
        draft=run.draft,
        prompt=prompt.model_copy(update={"seed": seed}),
        prompt_index=index,
        step=step,
        epoch=epoch,
        output_dir=run.output_dir,
        output_name=run.output_name,
        priority=run.priority,
        keep=run.keep,
        label=run.label,
        submitted_at=submitted_at,
        staging=run.staging,
        local_time=file_time(time.localtime(submitted_at)),
    )


def with_experts(run: Run, checkpoint: Checkpoint | None) -> tuple[Checkpoint | None, tuple[ExtraLora, ...]]:
    """The checkpoint and the further LoRAs of a run, each with the transformer that its name says it is for.

    A checkpoint that is named by its path may say so in short (`cat_high`) where the family has two transformers; where
    it has one, `high` is part of a title.
    """
    if not two_experts(run.model):
        loras = tuple(lora.model_copy(update={"expert": None}) for lora in run.loras)
        return checkpoint and checkpoint.model_copy(update={"expert": None}), loras
    if checkpoint is not None and checkpoint.expert is None and not checkpoint.snapshot:
        named = expert_in_name(checkpoint.path, short=True)
        checkpoint = checkpoint.model_copy(update={"expert": named}) if named else checkpoint
    return checkpoint, run.loras


def two_experts(model: ModelSpec) -> bool:
    """True for a family whose model consists of two transformers."""
    return architecture(model.architecture).high_noise_cfg_scale is not None


def file_time(when: time.struct_time) -> str:
    """A time as trainers write it into the names of their samples."""
    return time.strftime("%Y%m%d%H%M%S", when)


def checkpoint_at(path: str | Path) -> Checkpoint:
    """A checkpoint that stays where it is (nothing is linked or removed), by content: a file or an adapter's directory.

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointError: a directory holds no complete adapter, or the name is not Unicode.
    """
    found = absolute(path)
    if unicode_text(str(found)) != str(found):
        raise CheckpointError(f"{unicode_text(str(found))}: its name is not Unicode; rename it")
    if not found.is_dir() and not found.is_file():
        raise CheckpointMissing(f"{path}: there is no such checkpoint file")
    return Checkpoint(path=str(found), fingerprint=checkpoint_fingerprint(found), expert=expert_in_name(found))


def extra_loras(
    paths: Sequence[str | Path], strengths: Sequence[float] = (), experts: Sequence[Expert | None] = ()
) -> tuple[ExtraLora, ...]:
    """LoRAs to merge beside the checkpoint, read once for their hashes. A strength that is not given is 1.

    Args:
        experts: the transformer that each is for, of a model of two; where none is given, what its name says.

    Raises:
        CheckpointMissing: there is no such file.
        ConfigError: there are more strengths or experts than files, a strength is not a finite number, or a file's name
            contradicts its expert.
    """
    for flag, values in (("--lora_multiplier", strengths), ("--lora_expert", experts)):
        if len(values) > len(paths):
            raise ConfigError(f"{len(values)} values for {flag}, but {len(paths)} files for --lora_weight")
    if not all(map(math.isfinite, strengths)):
        raise ConfigError("--lora_multiplier must be finite numbers")
    found = [checkpoint_at(path) for path in paths]
    padded = [*strengths, *[1.0] * (len(paths) - len(strengths))]
    named: list[Expert | None] = [*experts, *[None] * (len(paths) - len(experts))]
    return tuple(
        ExtraLora(path=file.path, fingerprint=file.fingerprint, strength=strength, expert=expert_of_extra(file, expert))
        for file, strength, expert in zip(found, padded, named, strict=True)
    )


def expert_of_extra(file: Checkpoint, named: Expert | None) -> Expert | None:
    """The transformer that a further LoRA is for: as named, or as its file is.

    Raises:
        ConfigError: they contradict each other.
    """
    if named not in (None, *get_args(Expert)):
        raise ConfigError(f"--lora_expert {named}: it is {' or '.join(get_args(Expert))}")
    if named and file.expert and named != file.expert:
        raise ConfigError(f"--lora_expert {named}: the name of {file.path} says {file.expert}")
    return named or file.expert


def sampled_architecture(name: str) -> ArchitectureSpec:
    """The family called `name`.

    Raises:
        ArchitectureError: unknown, or this version has no sampler for it.
    """
    spec = architecture(name)
    if not spec.sampled:
        raise ArchitectureError(f"{name} cannot be sampled by this version yet")
    return spec
