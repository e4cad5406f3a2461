"""The samples of the rankings that are being voted on, kept for some seconds: a vote follows a vote."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

from rushes.client.client import Client
from rushes_service.ranking.contenders import Field, read_field

FRESH_S = 15.0
"""Seconds for which the samples of a ranking are not read again."""

MAX_FIELDS = 8
"""Rankings whose samples are remembered."""


class Contests:
    """The samples of the rankings that are being voted on, read once in `FRESH_S`. Safe to use from several threads."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: OrderedDict[tuple[str, ...], tuple[float, Field]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, runs: Sequence[str], *, fresh: bool = False) -> Field:
        """The contenders of `runs`; raises as `read_field`."""
        key = tuple(dict.fromkeys(runs))
        with self._lock:
            known = self._known.get(key)
        if known is not None and not fresh and time.monotonic() - known[0] < FRESH_S:
            return known[1]
        found = read_field(self._client, key)
        with self._lock:
            self._known[key] = (time.monotonic(), found)
            self._known.move_to_end(key)
            while len(self._known) > MAX_FIELDS:
                self._known.popitem(last=False)
        return found
