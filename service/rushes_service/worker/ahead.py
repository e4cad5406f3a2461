"""A look at the samples that come next, so that the engine can prepare for them. None of them is reserved."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rushes.errors import InputError, QueueUnavailable
from rushes.wire.jobs import SampleJob
from rushes_service.queue import Queue
from rushes_service.storage.path_map import PathMap

logger = logging.getLogger("rushes.worker")

MOST = 64
"""Samples that are looked at. A first submission has as many as it has prompts; more would make the first one wait."""


def waiting_for(model: str, queue: Queue, paths: PathMap) -> Sequence[SampleJob]:
    """Samples that wait for the model of this fingerprint, with files under this machine's paths.

    A sample whose files have no place here is left out. None at all while Redis is away.
    """
    found = []
    try:
        jobs = queue.waiting(model, MOST)
    except QueueUnavailable as error:
        # It is asked again and again, and the lease has told of the outage.
        logger.debug("the samples that come next are not known: %s", error)
        return ()
    for job in jobs:
        try:
            found.append(paths.job_to_local(job))
        except InputError as error:
            logger.debug("sample %s: %s", job.id, error)
    return found
