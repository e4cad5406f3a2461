"""Patience with a store that is away: the sample is kept, and asked for again and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rushes.errors import StoreUnavailable
from rushes_service.worker.lease import Lease

logger = logging.getLogger("rushes.worker")

FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 30.0

T = TypeVar("T")


@dataclass(frozen=True)
class StoreRetry:
    """Waits for a store while the lease is renewed.

    Args:
        lease: of the sample that waits.
        limit_s: how long the store may be away at a stretch.
    """

    lease: Lease
    limit_s: float

    def __call__(self, ask: Callable[[], T]) -> T:
        """What `ask` returns once the store is there; it is called again from the start.

        Raises:
            StoreUnavailable: it has been away for too long.
            SampleStopped: somebody ended the sample meanwhile.
        """
        deadline, pause_s = time.monotonic() + self.limit_s, FIRST_PAUSE_S
        while True:
            try:
                return ask()
            except StoreUnavailable as error:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise
                logger.warning(
                    "sample %s waits for the store, %.0f s more at most: %s", self.lease.held.id, left_s, error
                )
            self.lease.stage("wait")
            self.lease.rest(min(pause_s, left_s))
            pause_s = min(pause_s * 2, LAST_PAUSE_S)
