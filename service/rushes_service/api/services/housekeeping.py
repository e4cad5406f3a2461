"""Daily removal of thumbnails that are not requested and uploads that no sample names."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from starlette.concurrency import run_in_threadpool

from rushes.errors import QueueUnavailable
from rushes_service.api.context import Context
from rushes_service.api.services.uploads import UPLOAD_DIR, prune

log = logging.getLogger(__name__)

EVERY_S = 24 * 3600
"""A day, in seconds: the files removed have been unused for weeks."""


async def keep_tidy(context: Context) -> None:
    """Tidy up now and every day, until the server stops."""
    while not context.stopping.is_set():
        await run_in_threadpool(tidy, context)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(context.stopping.wait(), EVERY_S)


def tidy(context: Context) -> None:
    """Remove unused files; on an error they stay until the next day."""
    try:
        context.thumbnails.prune()
        removed = prune(context.roots.first / UPLOAD_DIR, context.client)
        if removed:
            log.info("%d uploads that no sample names were removed", removed)
    except (QueueUnavailable, OSError) as error:
        log.warning("what is old is kept for now: %s", error)
