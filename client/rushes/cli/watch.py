"""Sample every new checkpoint that a trainer writes, without touching the trainer.

Understands the file names of musubi-tuner, sd-scripts, diffusers' scripts, PEFT, ai-toolkit, diffusion-pipe,
finetrainers, OneTrainer and others, and the step in the files' metadata. Takes the trainers' own flags, so a training
command line can be reused. Files are sampled when they are complete; what was there before is left alone without
--backfill. Stop it with Ctrl-C: started again, it goes on where it stopped.

  rushes watch out --architecture wan2.1-t2v --rushes_model Wan-AI/Wan2.1-T2V-1.3B-Diffusers \\
      --sample_prompts prompts.txt
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rushes._paths import PRIVATE_DIR, absolute
from rushes._terminal import print_line
from rushes.cli.main import EXIT_FAILED, redis_argument
from rushes.client.client import Client
from rushes.errors import ConfigError
from rushes.families.table import ARCHITECTURES
from rushes.prompts.files import read_prompts
from rushes.submission.build import check_prompts, two_experts
from rushes.training.flags import add_sampling_arguments, run_from_args
from rushes.watch import CheckpointWatcher, Search
from rushes.watch.notifier import FileNotifier
from rushes.watch.watcher import SETTLE_S

POLL_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes watch`."""
    parser.add_argument("directories", nargs="*", metavar="DIR", help="a trainer's output directory (--output_dir)")
    parser.add_argument(
        "--architecture", required=True, metavar="A", help=f"model family: {', '.join(sorted(ARCHITECTURES))}"
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="each directory below is a run of its own")
    parser.add_argument("--backfill", action="store_true", help="sample the checkpoints that are there already, too")
    parser.add_argument("--once", action="store_true", help="sample what is there (or new since last time), and end")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="names to leave alone, '*ema*' for example"
    )
    parser.add_argument(
        "--keep", choices=("all", "latest"), default="all", help="latest: drop queued samples of older checkpoints"
    )
    parser.add_argument("--poll", type=float, default=POLL_S, metavar="S", help="seconds between looks (default: 5)")
    parser.add_argument(
        "--settle",
        type=float,
        default=SETTLE_S,
        metavar="S",
        help="a file must stay as it is for S seconds (default: 2)",
    )
    parser.add_argument("--lenient", action="store_true", help="unknown or malformed prompt options are warnings")
    redis_argument(parser)
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Watch until Ctrl-C; with `--once` 1 if something could not be handed over."""
    roots = [absolute(directory) for directory in args.directories or [args.output_dir] if directory]
    if not roots:
        raise ConfigError("which directory? name one, or give --output_dir as the trainer has it")
    if files := [root for root in roots if root.is_file()]:
        raise ConfigError(f"{files[0]} is a file; name the directory that the trainer writes into")
    if not args.sample_prompts:
        raise ConfigError("--sample_prompts FILE is needed: what is to be sampled")
    if args.poll <= 0 or args.settle < 0:
        raise ConfigError("--poll must be above 0 seconds, --settle 0 or more")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's way of pressing Ctrl-C
    try:
        watcher = watcher_of(args, roots)
        return watch_once(watcher) if args.once else watch(watcher, args.poll)
    except OSError as error:
        raise ConfigError(f"{error}; the watcher keeps its journal in {PRIVATE_DIR}/ there") from None
    except KeyboardInterrupt:
        print_line("stopped; what is queued is still sampled")
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def watcher_of(args: argparse.Namespace, roots: list[Path]) -> CheckpointWatcher:
    """The watcher that the flags describe. Mistakes in the flags and the prompt file are raised here."""
    given: dict[str, Any] = vars(args)
    shared = run_from_args(given, args.architecture, keep=args.keep)
    prompts: Path = absolute(args.sample_prompts)

    def read() -> Any:
        return read_prompts(prompts, lenient=args.lenient)

    check_prompts(shared, read())
    flags = {"name": "rushes_run", "output_dir": "output_dir", "output_name": "output_name"}
    return CheckpointWatcher(
        roots,
        shared,
        read,
        Client(args.rushes_url, retries=0),
        report=print_line,
        search=Search(args.recursive, tuple(args.exclude), short_experts=two_experts(shared.model)),
        backfill=args.backfill,
        base=args.sample_at_first,
        settle_s=args.settle,
        fixed=frozenset(field for field, flag in flags.items() if given.get(flag)),
    )


def watch(watcher: CheckpointWatcher, poll_s: float) -> int:
    """Look, wait, and look again, for ever."""
    notifier = FileNotifier(watcher.roots)
    if not notifier.notified:
        print_line(f"looking every {poll_s:g} s; with `pip install 'rushes[watch]'` new files are seen at once")
    while True:
        watcher.look()
        notifier.wait(min(poll_s, watcher.waiting.settle_s) if watcher.waiting.settling else poll_s)


def watch_once(watcher: CheckpointWatcher, sleep: Callable[[float], None] = time.sleep) -> int:
    """Sample what is complete; files that are being written are not waited for for longer than they need to settle."""
    watcher.look()
    if watcher.waiting.settling:
        sleep(watcher.waiting.settle_s)
        watcher.look()
    for path in watcher.waiting.incomplete:
        print_line(f"left alone: {path} is incomplete, or still being written")
    if watcher.failed:
        return EXIT_FAILED
    if watcher.unsent:
        print_line(f"{watcher.unsent} submissions wait in the spool for Redis; run this again when it is there")
        return EXIT_FAILED
    return 0
