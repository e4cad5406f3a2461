"""Look at hand-offs that wait on disk because Redis was away, and hand them over.

A trainer hands its own spool over by itself as soon as Redis is back, and so does the next one that writes to the
same directory. This is for a training that has ended meanwhile.

  rushes spool ls output/my-lora
  rushes spool replay output/my-lora
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rushes._paths import SPOOL_DIR
from rushes._terminal import printable
from rushes.checkpoints.snapshots import release
from rushes.checkpoints.staging import uploaded
from rushes.cli.main import redis_argument
from rushes.client.client import Client
from rushes.errors import ConfigError, WireError
from rushes.submission.spool import Spool, Submission


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes spool`."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, action, summary in (
        ("ls", show, "hand-offs that wait in output directories"),
        ("replay", replay, "hand them over to Redis; what is there already is left as it is"),
    ):
        sub = actions.add_parser(name, help=summary, description=summary)
        sub.add_argument("directories", nargs="+", metavar="OUTPUT_DIR", help="--output_dir of a training")
        redis_argument(sub)
        sub.set_defaults(action=action)


def run(args: argparse.Namespace) -> int:
    """Do what was asked; 1 if a hand-off cannot be read."""
    return args.action(args)


def show(args: argparse.Namespace) -> int:
    """Print one line for each hand-off."""
    code = 0
    for spool in spools(args.directories):
        for path in spool.waiting():
            submission = read(spool, path)
            code = code if submission else 1
            if submission and submission.all:
                first = submission.all[0]
                print(printable(f"{path}: {first.run}, step {first.step}, {len(submission.all)} samples"))
    return code


def replay(args: argparse.Namespace) -> int:
    """Hand everything over."""
    client = Client(args.rushes_url)
    count, code = 0, 0
    kept: set[str] = set()
    for spool in spools(args.directories):
        for path in spool.waiting():
            submission = read(spool, path)
            if submission is None:
                code = 1
                continue
            client.hand_over(submission)
            spool.remove(path)
            kept |= uploaded(submission.jobs)
            count += len(submission.all)
    for snapshot in kept:
        release(snapshot)
    print(f"{count} samples handed over")
    return code


def spools(directories: list[str]) -> list[Spool]:
    """The spools below output directories.

    Raises:
        ConfigError: one of them is not there.
    """
    for directory in directories:
        if not Path(directory).is_dir():
            raise ConfigError(f"{directory}: there is no such directory; give the --output_dir of a training")
    return [Spool(Path(directory) / SPOOL_DIR) for directory in directories]


def read(spool: Spool, path: Path) -> Submission | None:
    """A hand-off; None, with a message, when it cannot be read."""
    try:
        return spool.read(path)
    except WireError as error:
        print(printable(f"{path}: {error}"))
        return None
