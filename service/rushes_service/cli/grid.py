"""`rushes grid`: a run as a labelled contact sheet, a picture or a film.

examples:
  rushes grid cat --png cat.png             one picture; of clips the middle frame and a strip
  rushes grid cat --mp4 cat.mp4             every sample plays, in step
  rushes grid cat --png best.png --favourites
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rushes.client.client import Client
from rushes.errors import ConfigError

MOST_COLUMNS = 12
"""Checkpoints side by side that a screen can still show."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes grid`."""
    parser.add_argument("name", metavar="run", help="name of the run, as on the page and in `rushes jobs list`")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write a picture")
    parser.add_argument("--mp4", type=Path, metavar="FILE", help="write a film")
    parser.add_argument(
        "--columns",
        type=int,
        default=MOST_COLUMNS,
        metavar="N",
        help=f"checkpoints to show, spread evenly over training (default: {MOST_COLUMNS}; 0: all)",
    )
    parser.add_argument("--favourites", action="store_true", help="only samples that were marked")
    parser.add_argument("--redis-url", help="Redis or Valkey server (RUSHES_REDIS_URL)")


def run(args: argparse.Namespace) -> int:
    """Write the picture, the film, or both.

    Raises:
        ConfigError: neither --png nor --mp4.
        RushesError: there is no such run, none of its samples is done, or a file cannot be written.
    """
    from rushes_service.sheets import drawing, picking

    if args.png is None and args.mp4 is None:
        raise ConfigError("say what to write: --png FILE, --mp4 FILE, or both")
    client = Client(args.redis_url)
    picked = picking.pick(client, args.name, args.columns or None, args.favourites)
    cells = drawing.read_cells(picked, lambda text: print(f"rushes: {text}", file=sys.stderr))
    for target, write in ((args.png, drawing.write_png), (args.mp4, drawing.write_mp4)):
        if target is not None:
            write(picked, cells, target)
            print(f"{target}: {len(picked.rows)} prompts x {len(picked.columns)} checkpoints")
    return 0
