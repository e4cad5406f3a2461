"""Retries while a store is away: the sample keeps its lease and waits."""

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
    """Calls a function again while the store is away and the lease is renewed.

    Args:
        lease: lease of the waiting sample.
        limit_s: longest outage of the store, in seconds.
    """

    lease: Lease
    limit_s: float

    def __call__(self, ask: Callable[[], T]) -> T:
        """The result of `ask`, which is called again until the store answers.

        Raises:
            StoreUnavailable: the outage was longer than `limit_s`.
            SampleStopped: the sample was cancelled, lost or handed back meanwhile.
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
