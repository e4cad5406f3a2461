"""See what each worker is doing; pause, resume or drain one.

rushes workers                         a table
rushes workers --watch                 the same, kept up to date until Ctrl-C
rushes workers pause box1-cuda0        take no more samples for now (the beginning of a name is enough)
rushes workers resume box1-cuda0
rushes workers drain box1              finish the current samples and end
rushes workers check                   0 if a worker of this machine lives (for health checks), else 1
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Callable, Sequence

from rushes.cli.main import redis_argument
from rushes.client.client import Client, WorkerInfo
from rushes.client.control import Order, order

REFRESH_S = 1.0

COLUMNS: Sequence[tuple[str, int, Callable[[WorkerInfo], str]]] = (
    ("worker", 32, lambda worker: worker["name"]),
    ("device", 10, lambda worker: worker.get("device", "")),
    ("state", 9, lambda worker: worker.get("state", "")),
    ("memory", 8, lambda worker: memory(worker.get("memory", ""))),
    ("model", 28, lambda worker: worker.get("label", "")),
    ("sample", 10, lambda worker: worker.get("sample", "")[:10]),
    ("stage", 8, lambda worker: worker.get("stage", "")),
    ("step", 9, lambda worker: f"{worker['step']}/{worker['total']}" if worker.get("total", "0") != "0" else ""),
    ("it/s", 6, lambda worker: worker.get("rate", "")),
    ("since", 7, lambda worker: f"{worker['busy_s']} s" if worker.get("busy_s") else ""),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes workers`."""
    parser.set_defaults(action=show, what=None, names=[])
    parser.add_argument("--watch", action="store_true", help="keep the table up to date until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print JSON")
    redis_argument(parser)
    actions = parser.add_subparsers(title="actions", metavar="ACTION")
    for what, summary in (
        ("pause", "take no more samples until resumed; the current one is finished"),
        ("resume", "go on after a pause"),
        ("drain", "finish the current sample and end"),
    ):
        sub = actions.add_parser(what, help=summary)
        sub.add_argument("names", nargs="+", metavar="NAME", help="worker, or the beginning of its name")
        sub.set_defaults(action=tell, what=what)
    sub = actions.add_parser("check", help="exit with 0 if a worker of this machine lives, else with 1")
    sub.add_argument("names", nargs="*", metavar="NAME", help="other beginnings of names, each of a living worker")
    sub.set_defaults(action=check)


def run(args: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code."""
    return args.action(args, Client(args.rushes_url))


def show(args: argparse.Namespace, client: Client) -> int:
    """Print the table, again and again with `--watch`."""
    while True:
        workers = client.workers()
        if args.json:
            print(json.dumps(workers), flush=True)
        else:
            # The terminal's own sequence for "clear the screen, go to its top left".
            print(("\x1b[2J\x1b[H" if args.watch else "") + "\n".join(table(workers)), flush=True)
        if not args.watch:
            return 0
        time.sleep(REFRESH_S)


def tell(args: argparse.Namespace, client: Client) -> int:
    """Give an order and say who got it."""
    what: Order = args.what
    for name in order(client, args.names, what):
        print(f"{name}: {what}")
    return 0


def check(args: argparse.Namespace, client: Client) -> int:
    """1 if a name has no living worker; without names, if none has this machine's name."""
    living = [worker["name"] for worker in client.workers()]
    missing = [
        name for name in args.names or [f"{socket.gethostname()}-"] if not any(each.startswith(name) for each in living)
    ]
    for name in missing:
        print(f"no living worker's name begins with {name}")
    return 1 if missing else 0


def table(workers: Sequence[WorkerInfo]) -> list[str]:
    """Workers as aligned lines under a head."""
    if not workers:
        return ["no workers; `rushes up` or `rushes worker` starts one"]
    rows = [[head for head, _, _ in COLUMNS], *([read(worker) for _, _, read in COLUMNS] for worker in workers)]
    lines = [
        "  ".join(f"{cell[:width]:{width}}" for cell, (_, width, _) in zip(row, COLUMNS, strict=True)) for row in rows
    ]
    return [line.rstrip() for line in lines]


def memory(bytes_: str) -> str:
    """Bytes as gigabytes for people."""
    return f"{int(bytes_) / 1e9:.1f} GB" if bytes_ else ""
