"""Scores of finished samples, made in a thread of their own: no sample waits for one.

A sample is done before it is scored. Its numbers then go into its record and its receipt, and an event `scored` tells
of them; a score that raises is a warning there.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rushes._files import write_whole
from rushes.checkpoints.store import is_url
from rushes.errors import OutputError, QueueUnavailable
from rushes.wire.results import SampleResult
from rushes_service.queue import Queue
from rushes_service.scores.registry import Score
from rushes_service.sheets.frames import read_frames
from rushes_service.storage.path_map import PathMap

logger = logging.getLogger("rushes.worker")

MOST_WAITING = 256
"""Samples that wait to be scored; when there are more, the newest is not scored."""

FRAME_WIDTH = 512
"""Pixels; wider frames are made smaller: models of pictures look at 224 to 512."""


class Scorer:
    """Scores samples one after another in a daemon thread.

    Args:
        queue: of the worker; records and events are written through it.
        scores: by name.
        paths: from the submitter's paths to this machine's.
    """

    def __init__(self, queue_: Queue, scores: Mapping[str, Score], paths: PathMap) -> None:
        self._queue = queue_
        self._scores = scores
        self._paths = paths
        self._waiting: queue.Queue[SampleResult | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="rushes-scores", daemon=True)
        if scores:
            self._thread.start()

    def submit(self, result: SampleResult) -> None:
        """Score a finished sample soon. Never waits."""
        if not self._scores or result.path is None or is_url(result.path):  # media in a store are not scored
            return
        try:
            self._waiting.put_nowait(result)
        except queue.Full:
            logger.warning("sample %s is not scored: %d others wait for that", result.id, MOST_WAITING)

    def close(self, timeout_s: float | None = None) -> None:
        """Score what waits, for at most `timeout_s` seconds."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (result := self._waiting.get()) is not None:
            try:
                self._score(result)
            except (QueueUnavailable, OSError) as error:
                logger.warning("the scores of %s are lost: %s", result.id, error)
            except Exception:
                logger.exception("the scores of %s are lost", result.id)

    def _score(self, result: SampleResult) -> None:
        """Measure one sample, and keep what came out."""
        found, warnings = self._measure(result)
        scored = self._queue.add_scores(result.id, found, warnings)
        if not scored:
            return  # it was sampled again meanwhile
        if result.receipt is not None:
            add_to_receipt(Path(self._paths.to_local(result.receipt)), found, warnings)
        self._queue.publish("scored", result.id, result.run, {"scores": found, "warnings": warnings})

    def _measure(self, result: SampleResult) -> tuple[dict[str, float], list[str]]:
        """Numbers by name, and a sentence for each score that failed."""
        try:
            frames = np.stack(read_frames(Path(self._paths.to_local(result.path or "")), FRAME_WIDTH))
        except (OutputError, ValueError) as error:
            return {}, [f"no score: {error}"]
        found: dict[str, float] = {}
        warnings: list[str] = []
        for name, score in self._scores.items():
            try:
                numbers = {str(key): float(value) for key, value in score(frames, result.prompt.prompt).items()}
                if not all(map(math.isfinite, numbers.values())):
                    raise ValueError(f"a number that is not finite: {numbers}")
                found |= {key: round(value, 5) for key, value in numbers.items()}
            except Exception as error:  # noqa: BLE001  # a plug-in may raise anything: that is a warning
                warnings.append(f"score {name} failed: {type(error).__name__}: {error}")
                logger.warning("sample %s: %s", result.id, warnings[-1])
        return found, warnings


def add_to_receipt(path: Path, scores: Mapping[str, float], warnings: list[str]) -> None:
    """Write scores and warnings into the receipt beside a sample; one that is not here stays as it is."""
    try:
        receipt: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(receipt, dict):
        receipt["scores"] = dict(scores)
        receipt["warnings"] = [*(receipt.get("warnings") or []), *warnings]
        write_whole(path, json.dumps(receipt, ensure_ascii=False, indent=2))
