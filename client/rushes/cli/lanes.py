"""See which base models samples wait for: one lane for each model and priority.

rushes lanes
rushes lanes --json

The lane's name is that of its stream in Redis, which autoscalers want to know.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rushes.cli.main import redis_argument
from rushes.client.client import Client
from rushes.client.lanes import LaneInfo, lanes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes lanes`."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    redis_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    found = lanes(Client(args.rushes_url))
    if args.json:
        print(json.dumps([asdict(lane) for lane in found]))
    elif not found:
        print("no lanes; the first sample of a base model makes one")
    for lane in [] if args.json else found:
        print(line(lane))
    return 0


def line(lane: LaneInfo) -> str:
    """A lane for people."""
    waiting = f"{lane.queued} queued ({lane.wait_s:.0f} s)" if lane.queued else "0 queued"
    return f"{lane.key:46} {lane.priority:12} {waiting:20} {lane.running} running  {lane.model}"
