"""Stored uploads: pictures and clips that prompts name, below the first root, until no sample needs them."""

from __future__ import annotations

import hashlib
import io
import re
import stat
import time
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from rushes._files import write_whole
from rushes.client.client import Client
from rushes.wire import keys
from rushes.wire.connection import reachable

UPLOAD_DIR = ".rushes/uploads"

KEPT_S = 30 * 24 * 3600
"""Age at which an upload that no sample's record names is removed."""

UPLOAD_NAME = re.compile(r"\b[0-9a-f]{32}\.(?:png|jpg|webp|mp4)\b")
PIECE = 500
"""Records per call of Redis."""

MAX_PIXELS = 64_000_000
"""Twice an 8K frame; a larger picture would be a decompression bomb."""

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
PICTURES = frozenset(SUFFIXES.values())
CLIP = ".mp4"
MP4_MARK = b"ftyp"
"""At the fifth byte of every mp4."""


async def keep_upload(data: bytes, root: Path, kinds: Collection[str]) -> Path | None:
    """Path that `data` is stored under, relative to `root`; None if its kind is not in `kinds`.

    Raises:
        HTTPException: it cannot be written (507).
    """
    suffix = await run_in_threadpool(kind_of, data)
    if suffix not in kinds:
        return None
    path = Path(UPLOAD_DIR) / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    try:
        await run_in_threadpool(keep, data, root / path)
    except OSError as error:
        raise HTTPException(507, f"the upload cannot be kept in {root / UPLOAD_DIR}: {error.strerror}") from error
    return path


def kind_of(data: bytes) -> str | None:
    """File name suffix for the content of `data`; None for an unknown kind."""
    if data[4:8] == MP4_MARK:
        return CLIP
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=list(SUFFIXES)) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            image.verify()
            return SUFFIXES[image.format or ""]
    # Pillow's readers raise whatever a broken file makes them: all of it means "not a picture".
    except Exception:  # noqa: BLE001
        return None


def keep(data: bytes, path: Path) -> None:
    """Write the file whole, unless it is there."""
    if path.exists():
        path.touch()  # somebody is about to name it: see `prune`
        return
    write_whole(path, data)


def prune(directory: Path, client: Client) -> int:
    """Remove uploads that were put there long ago and that no sample's record names; returns how many.

    Raises:
        QueueUnavailable: Redis cannot be reached; nothing is removed.
    """
    old = [path for path in directory.glob("*") if is_old(path)]
    named = set(named_uploads(client)) if old else set()
    removed = 0
    for path in old:
        # Checked again: it may have been uploaded again while the records were read.
        if path.name not in named and is_old(path):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def is_old(path: Path) -> bool:
    """True for an upload, or part of one, that was not sent or named for `KEPT_S`."""
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_mtime < time.time() - KEPT_S


def named_uploads(client: Client) -> Iterator[str]:
    """File names of uploads in every record that Redis keeps, whatever a worker's machine calls their directory."""
    with reachable(client.url):
        # Not by the index: it forgets a sample that was submitted long ago even while it waits.
        keys_of_records = client.redis.scan_iter(match=f"{keys.JOB_PREFIX}*", count=PIECE)
        while some := list(islice(keys_of_records, PIECE)):
            pipeline = client.redis.pipeline(transaction=False)
            for key in some:
                pipeline.hget(key, "payload")
            for payload in pipeline.execute():
                yield from UPLOAD_NAME.findall(payload or "")
