"""List the embeddings cached on disk, or delete them.

With an embedding in the cache, a prompt or a picture is sampled without its encoder being loaded. The cache may be
deleted at any time: what is missing is made anew.

  rushes cache ls
  rushes cache clear
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rushes_service.settings import GIB, load_settings
from rushes_service.storage.disk_cache import CONDITIONING_DIR, CachedFile, DiskCache

SHOWN = 60
"""Characters of a prompt."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes cache`."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, action, summary in (
        ("ls", show, "list what is kept, what was used last at the end"),
        ("clear", clear, "delete everything"),
    ):
        sub = actions.add_parser(name, help=summary, description=summary)
        sub.add_argument("--cache-dir", type=Path, help="where text embeddings are kept")
        sub.set_defaults(action=action)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    settings = load_settings(cache_dir=args.cache_dir)
    limit = settings.cache_max_gb
    args.action(DiskCache(settings.cache_dir / CONDITIONING_DIR, int(limit * GIB)))
    return 0


def show(cache: DiskCache) -> None:
    """Print one line for each file, and the sum."""
    files = cache.files()
    for file in files:
        print(
            f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(file.used))}  {file.size / 2**20:9.2f} MiB  {about(file)}"
        )
    taken, limit = sum(file.size for file in files) / GIB, (cache.max_bytes or 0) / GIB
    print(f"{len(files)} files, {taken:.2f} of {limit:g} GiB, in {cache.directory}")


def clear(cache: DiskCache) -> None:
    """Delete everything and say how much it was."""
    count, size = cache.clear()
    print(f"{count} files deleted, {size / GIB:.2f} GiB, from {cache.directory}")


def about(file: CachedFile) -> str:
    """Short description of a file's content."""
    key = file.key()
    text = str(key.get("text", ""))
    words = f": {text[:SHOWN]}{'…' if len(text) > SHOWN else ''}" if text else ""
    return f"{key.get('kind', 'unknown')}{words}"
