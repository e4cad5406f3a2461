"""`rushes export`: a run as a folder that any browser opens, without a server and without a network.

The page holds the blind ranking, the curves of drift and scores, and the sheet.

examples:
  rushes export cat --html out/             then open out/index.html, or put the folder on any web space
  rushes export cat --html out/ --columns 10 --favourites
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rushes.client.client import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes export`."""
    parser.add_argument("name", metavar="run", help="name of the run, as on the page and in `rushes jobs list`")
    parser.add_argument("--html", type=Path, required=True, metavar="DIR", help="folder to write; made if need be")
    parser.add_argument("--columns", type=int, default=0, metavar="N", help="checkpoints to keep (default: all)")
    parser.add_argument("--favourites", action="store_true", help="only samples that were marked")
    parser.add_argument("--redis-url", help="Redis or Valkey server (RUSHES_REDIS_URL)")


def run(args: argparse.Namespace) -> int:
    """Write the folder.

    Raises:
        RushesError: there is no such run, none of its samples is done, or the folder cannot be written.
    """
    from rushes_service.ranking.contenders import read_field
    from rushes_service.ranking.table import rank
    from rushes_service.ranking.votes import VoteStore
    from rushes_service.sheets import folder, picking

    client = Client(args.redis_url)
    picked = picking.pick(client, args.name, args.columns or None, args.favourites)
    field = read_field(client, [args.name])
    votes = VoteStore(client, field.runs, field.directories).votes()
    page = folder.write(picked, args.html, rank(field.runs, field.contenders, votes, field.left_out))
    print(f"{page}: {len(picked.places)} samples of {len(picked.columns)} checkpoints")
    return 0
