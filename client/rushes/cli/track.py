"""Show the results of runs in TensorBoard, W&B, Trackio or MLflow, each at its step, while they are made.

Runs beside any trainer, also one that knows nothing of Rushes. May be stopped and started at any time, also long after
the training: what has been logged is remembered. TensorBoard gets a directory per run below DIR, every other tracker a
run of its own, so that the trainer's own step counters are left alone.

  rushes track --run my_lora-1a2b3c --tensorboard logs
"""

from __future__ import annotations

import argparse
import re
import signal
import time
from collections.abc import Callable, Iterator

from rushes._paths import absolute
from rushes._terminal import print_line
from rushes.cli.main import EXIT_FAILED, redis_argument
from rushes.client.client import Client
from rushes.errors import ConfigError
from rushes.trackers import MlflowTracker, TensorBoardTracker, Tracker, TrackioTracker, WandbTracker
from rushes.trackers.following import Destination, Follower, memory_path

POLL_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes track`."""
    parser.add_argument(
        "--run",
        dest="runs",
        action="append",
        required=True,
        metavar="NAME",
        help="a run, as the gallery names it; repeatable",
    )
    parser.add_argument("--tensorboard", metavar="DIR", help="log directory; needs rushes[trackers]")
    parser.add_argument("--wandb", metavar="PROJECT", help="W&B project; WANDB_MODE=offline works; needs wandb")
    parser.add_argument("--wandb_entity", metavar="NAME", help="W&B user or team (default: your own)")
    parser.add_argument("--trackio", metavar="PROJECT", help="Trackio project; needs trackio")
    parser.add_argument("--mlflow", metavar="URI", help="MLflow tracking server; needs mlflow")
    parser.add_argument("--mlflow_experiment", metavar="NAME", default="rushes", help="(default: rushes)")
    parser.add_argument("--once", action="store_true", help="log what there is, and end")
    parser.add_argument("--poll", type=float, default=POLL_S, metavar="S", help="seconds between looks (default: 2)")
    redis_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Follow until Ctrl-C; with `--once` 1 if something could not be logged."""
    if not any((args.tensorboard, args.wandb, args.trackio, args.mlflow)):
        raise ConfigError("which tracker? give --tensorboard DIR, --wandb PROJECT, --trackio PROJECT or --mlflow URI")
    if (args.trackio and len(args.runs) > 1) or args.poll <= 0:
        raise ConfigError("--trackio takes one --run at a time, and --poll must be above 0 seconds")
    client = Client(args.rushes_url, retries=0)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's way of pressing Ctrl-C
    followers: list[Follower] = []
    try:
        followers += [Follower(client, name, destinations(args, name), print_line) for name in dict.fromkeys(args.runs)]
        while True:
            settled = [follower.turn() for follower in followers]
            if args.once:
                return 0 if all(settled) else EXIT_FAILED
            time.sleep(args.poll)
    except KeyboardInterrupt:
        print_line("stopped; started again, it goes on from here")
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
        for follower in followers:
            follower.close()
        client.close()


def destinations(args: argparse.Namespace, name: str) -> list[Destination]:
    """The trackers that the flags name, for one run."""
    return [
        Destination(kind, make(), memory_path(f"{kind} {place}", name)) for kind, place, make in trackers(args, name)
    ]


def trackers(args: argparse.Namespace, name: str) -> Iterator[tuple[str, str, Callable[[], Tracker]]]:
    """Kind and place of each tracker, and how it is made."""
    if args.tensorboard:
        logdir = absolute(args.tensorboard) / re.sub(r"[^\w.-]", "_", name)
        yield "TensorBoard", str(logdir), lambda: TensorBoardTracker(logdir)
    if args.wandb:
        place = f"{args.wandb_entity or ''}/{args.wandb}"
        yield "W&B", place, lambda: WandbTracker.start(args.wandb, name, entity=args.wandb_entity)
    if args.trackio:
        yield "Trackio", args.trackio, lambda: TrackioTracker.start(args.trackio, name)
    if args.mlflow:
        place = f"{args.mlflow} {args.mlflow_experiment}"
        yield "MLflow", place, lambda: MlflowTracker.start(args.mlflow, name, args.mlflow_experiment)
