"""`rushes import`: bring samples that lie on disk back into the gallery.

Samples are known by the receipts beside them. Those that a trainer made itself, without Rushes, are known by their
names (<output_name>_<e000001|000100>_<index>_<time>[_<seed>]); give the run's prompt file to see their prompts.

examples:
  rushes import output/                     everything in output/sample
  rushes import output/ --run old-cat --prompts prompts.txt
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rushes.client.client import Client
from rushes.errors import InputError
from rushes.wire.jobs import Prompt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes import`."""
    parser.add_argument("directory", type=Path, help="the trainer's output directory, or its folder `sample`")
    parser.add_argument(
        "--run", dest="name", help="name of the run (default: the one in the receipts, else after the directory)"
    )
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="prompt file of samples without receipts")
    parser.add_argument("--redis-url", help="Redis or Valkey server (RUSHES_REDIS_URL)")


def run(args: argparse.Namespace) -> int:
    """Read the directory and record its samples.

    Raises:
        InputError: there is no such directory, or no sample in it.
        QueueUnavailable: Redis cannot be reached.
    """
    from rushes_service.catalogue import adoption

    prompts = prompts_in(args.prompts) if args.prompts else []
    found = list(
        adoption.find(args.directory, args.name, prompts, lambda text: print(f"rushes: {text}", file=sys.stderr))
    )
    if not found:
        raise InputError(f"{args.directory} holds no sample with a receipt or a name that tells its step")
    # The gallery lists the newest first: the last step goes in last.
    found.sort(key=lambda sample: (sample.job.step, sample.job.prompt_index, sample.finished_at))
    new = adoption.adopt(Client(args.redis_url), found)
    runs = ", ".join(sorted({sample.job.run for sample in found}))
    print(f"{new} samples imported, {len(found) - new} were known already; runs: {runs}")
    return 0


def prompts_in(path: Path) -> list[Prompt]:
    """The prompts of a file; a line that cannot be read keeps its place."""
    from rushes.prompts.files import read_prompts

    return [line.prompt or Prompt(prompt=line.text) for line in read_prompts(path)]
