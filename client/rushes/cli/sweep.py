"""Sample one checkpoint at several strengths and seeds, as a run of its own with the strengths side by side.

Model, output and prompts are those of the run that the checkpoint belongs to; or give them by the trainers' own flags,
as for `rushes submit`. The ranking (`rushes rank`) works on it as on any run.

  rushes sweep out/lora-000400.safetensors --strengths 0.4:1.2:0.2 --seeds 4
  rushes sweep out/lora-000400.safetensors --run cat --strengths 0.5,0.8,1
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from rushes.cli.main import redis_argument
from rushes.client.client import Client
from rushes.errors import ConfigError, InputError
from rushes.families.table import ARCHITECTURES
from rushes.prompts.files import read_prompts
from rushes.submission.build import Run, check_prompts, checkpoint_at
from rushes.submission.sweeps import MAX_VALUES, parse_strengths, sweep_jobs, sweep_run
from rushes.training.flags import DRAFT_FLAG, add_sampling_arguments, run_from_args
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob

SEARCHED_RUNS = 50
"""Newest runs that are searched for a checkpoint."""

SEARCHED_SAMPLES = 2000
"""Newest samples of each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes sweep`."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the LoRA to sample")
    parser.add_argument(
        "--strengths", default="0.4:1.2:0.2", metavar="S", help="FIRST:LAST:STEP or a list (default: 0.4:1.2:0.2)"
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds of each prompt (default: 1)")
    parser.add_argument(
        "--run",
        dest="name",
        metavar="RUN",
        help="run to take model, output and prompts from (default: the checkpoint's)",
    )
    parser.add_argument(
        "--architecture", metavar="A", help=f"without such a run: model family: {', '.join(sorted(ARCHITECTURES))}"
    )
    parser.add_argument("--step", type=int, metavar="N", help="training step it is from (default: the run's, else 0)")
    redis_argument(parser)
    parser.add_argument("--draft", dest="rushes_draft", **DRAFT_FLAG)
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Queue the samples."""
    strengths = parse_strengths(args.strengths)
    if not 1 <= args.seeds <= MAX_VALUES:
        raise ConfigError(f"--seeds {args.seeds}: 1 to {MAX_VALUES}")
    checkpoint = checkpoint_at(args.checkpoint)
    client = Client(args.rushes_url, make_directories=False)
    if args.architecture:
        base, prompts, step = from_flags(args)
    else:
        base, prompts, step = from_run(client, args, checkpoint)
        base = replace(base, draft=args.rushes_draft)
    shared = sweep_run(base, step)
    jobs = list(sweep_jobs(shared, prompts, checkpoint, step=step, strengths=strengths, seeds=args.seeds))
    client.submit(jobs)
    print(f"{len(jobs)} samples queued for {shared.name}; `rushes rank {shared.name}` ranks them once you have voted")
    return 0


def from_flags(args: argparse.Namespace) -> tuple[Run, list[tuple[int, Prompt]], int]:
    """Run, prompts and step by the trainers' flags."""
    if not args.sample_prompts:
        raise ConfigError("--sample_prompts FILE is needed with --architecture: what is to be sampled")
    shared = run_from_args(vars(args), args.architecture, name=args.name)
    prompts = check_prompts(shared, read_prompts(args.sample_prompts))
    return shared, list(enumerate(prompts)), args.step or 0


def from_run(
    client: Client, args: argparse.Namespace, checkpoint: Checkpoint
) -> tuple[Run, list[tuple[int, Prompt]], int]:
    """Run, prompts and step of the samples that there are of the checkpoint, or of a named run.

    Raises:
        InputError: no sample of the checkpoint, or of the run, is kept.
    """
    names = [args.name] if args.name else client.runs()[:SEARCHED_RUNS]
    for name in names:
        jobs = [record.job for record in client.list(run=name, limit=SEARCHED_SAMPLES) if record.job is not None]
        mine = [job for job in jobs if job.checkpoint and job.checkpoint.fingerprint == checkpoint.fingerprint]
        if mine or (args.name and jobs):
            like = (mine or jobs)[0]
            step = args.step if args.step is not None else mine[0].step if mine else 0
            return run_of(like), prompts_of(mine or jobs), step
    where = f"of a run {args.name!r}" if args.name else f"of {args.checkpoint}"
    raise InputError(f"no sample {where} is kept: name its run with --run, or give --architecture and --sample_prompts")


def run_of(job: SampleJob) -> Run:
    """The run of a job; exact, also where the job is a draft."""
    return Run(
        name=job.run,
        model=job.model,
        output_dir=job.output_dir,
        output_name=job.output_name,
        vae=job.vae,
        loras=job.loras,
        allow_partial_lora=job.allow_partial_lora,
        allow_other_family=job.allow_other_family,
        noise=job.noise,
        staging=job.staging,
    )


def prompts_of(jobs: Sequence[SampleJob]) -> list[tuple[int, Prompt]]:
    """The prompts of some jobs, each once, in their order."""
    found = {job.prompt_index: job.prompt for job in reversed(jobs)}
    return sorted(found.items(), key=lambda item: item[0])
