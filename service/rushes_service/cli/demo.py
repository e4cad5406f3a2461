"""`rushes demo`: see the whole thing work on this machine, with no GPU, no network and no Redis."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from rushes.errors import ConfigError

DEFAULT_STEPS = 400
FEWEST_STEPS = 4
"""One for each checkpoint."""

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended: 128 + SIGINT."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes demo`."""
    parser.add_argument("--once", action="store_true", help="end when every sample is made; exit 1 if one is not right")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="directory for all that it makes")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help=f"training steps (default {DEFAULT_STEPS})")
    parser.add_argument("--keep", action="store_true", help="keep the queue's data, to look at it again later")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 if every sample is as requested, 1 if not, 130 after Ctrl-C."""
    if args.steps < FEWEST_STEPS:
        raise ConfigError(f"--steps {args.steps} is too few: the demo saves 4 checkpoints, so it needs at least 4")
    from rich.console import Console

    from rushes_service.demo.runner import Options, run_demo

    options = Options(output=args.output.expanduser().absolute(), steps=args.steps, once=args.once, keep=args.keep)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return run_demo(options, Console(soft_wrap=True))
    except KeyboardInterrupt:
        return INTERRUPTED
