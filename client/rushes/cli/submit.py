"""Sample a checkpoint, or the base model, with a prompt file.

Takes the trainers' own flags, so a training command line can be reused: those that say how to sample count,
those that say when (--sample_every_n_steps and the like) do not. Submitting the same thing twice makes one sample.

  rushes submit --architecture wan2.1-t2v --rushes_model Wan-AI/Wan2.1-T2V-1.3B-Diffusers \\
      --sample_prompts prompts.txt --output_dir out --weights out/lora-000100.safetensors --step 100 --wait
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from rushes._terminal import printable
from rushes.cli.main import redis_argument
from rushes.client.client import Client
from rushes.errors import ConfigError, SampleFailed
from rushes.families.table import ARCHITECTURES
from rushes.prompts.files import read_prompts
from rushes.submission.build import build_jobs, check_prompts, checkpoint_at
from rushes.training.flags import DRAFT_FLAG, add_sampling_arguments, run_from_args
from rushes.training.sampler import whole_number
from rushes.wire.results import JobRecord, JobState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes submit`."""
    parser.add_argument(
        "--architecture", required=True, metavar="A", help=f"model family: {', '.join(sorted(ARCHITECTURES))}"
    )
    parser.add_argument("--weights", "--checkpoint", metavar="FILE", help="LoRA to sample; without it the base model")
    parser.add_argument("--step", type=int, metavar="N", help="training step it is from (default: 0)", default=0)
    parser.add_argument("--epoch", type=int, metavar="N", help="training epoch it is from; then names the files")
    parser.add_argument("--lenient", action="store_true", help="unknown or malformed prompt options are warnings")
    parser.add_argument("--wait", action="store_true", help="wait, show progress, and print the files")
    parser.add_argument("--timeout", type=float, metavar="S", help="with --wait: give up after this many seconds")
    redis_argument(parser)
    parser.add_argument("--noise", dest="rushes_noise", choices=("device", "cpu"), help="see --rushes_noise")
    parser.add_argument("--draft", dest="rushes_draft", **DRAFT_FLAG)
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Queue the samples; with `--wait` 1 if one of them failed."""
    if not args.sample_prompts:
        raise ConfigError("--sample_prompts FILE is needed: what is to be sampled")
    shared = run_from_args(vars(args), args.architecture)
    jobs = build_jobs(
        shared,
        check_prompts(shared, read_prompts(args.sample_prompts, lenient=args.lenient)),
        checkpoint=checkpoint_at(args.weights) if args.weights else None,
        step=whole_number("--step", args.step),
        epoch=None if args.epoch is None else whole_number("--epoch", args.epoch),
    )
    client = Client(args.rushes_url)
    ids = client.submit(jobs)
    if not args.wait:
        print(f"{len(ids)} samples queued for {jobs[0].run}; `rushes jobs list --run {jobs[0].run}` shows them")
        return 0
    return wait(client, ids, args.timeout)


def wait(client: Client, ids: list[str], timeout: float | None) -> int:
    """Wait for samples with a progress bar where the output is a terminal; print their files."""
    code = 0
    with progress(len(ids)) as on_change:
        try:
            results = client.wait(ids, timeout=timeout, on_change=on_change)
        except SampleFailed as error:
            results = [result for result in error.results if result is not None]
            code = 1
    for result in results:
        print(printable(result.path or f"{result.state.value}: {result.error.message if result.error else ''}"))
    return code


class progress:  # noqa: N801 - used like a function
    """A context that gives `Client.wait` its `on_change`: bars with rich on a terminal, else nothing."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.ended: set[str] = set()
        self.bars: Any = None

    def __enter__(self) -> Callable[[JobRecord], None]:
        if sys.stderr.isatty():
            try:
                from rich.console import Console
                from rich.progress import Progress
            except ImportError:
                return self.line
            self.bars = Progress(console=Console(stderr=True), transient=True)
            self.bars.start()
            self.all = self.bars.add_task("samples", total=self.total)
            self.one = self.bars.add_task("", total=1, visible=False)
            return self.bar
        return self.line

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def bar(self, record: JobRecord) -> None:
        """Move the bars."""
        if record.state.terminal:
            self.ended.add(record.id)
        self.bars.update(self.all, completed=len(self.ended))
        if record.state is JobState.RUNNING:
            self.bars.update(
                self.one,
                visible=True,
                description=record.stage or "",
                completed=record.step,
                total=record.total or None,
            )

    def line(self, record: JobRecord) -> None:
        """Say which sample has ended."""
        if record.state.terminal:
            self.ended.add(record.id)
            print(f"{len(self.ended)}/{self.total} {record.state.value}", file=sys.stderr)
