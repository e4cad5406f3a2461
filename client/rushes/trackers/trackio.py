"""Trackio, whose steps are as given, in any order."""

from __future__ import annotations

from typing import Any

from rushes.trackers.base import VIDEO, caption_of, key_of, media_of, needed, numbers_of
from rushes.wire.results import SampleResult

NO_METRICS = {"auto_log_gpu": False, "auto_log_cpu": False}
"""Of this machine: they are not those of the training."""


class TrackioTracker:
    """Logs results into a Trackio run.

    Args:
        run: what `trackio.init` returned, or one that is made for samples alone, see `start`.
        finish: end the run at `close`.
    """

    def __init__(self, run: Any, *, finish: bool = False) -> None:
        self._trackio: Any = needed("trackio", "trackio")
        self.run = run
        self._finish = finish

    @classmethod
    def start(cls, project: str, name: str) -> TrackioTracker:
        """The run `name` of a project, made if there is none.

        Raises:
            ConfigError: trackio is not installed.
        """
        trackio = needed("trackio", "trackio")
        return cls(trackio.init(project=project, name=name, resume="allow", embed=False, **NO_METRICS), finish=True)

    def log(self, result: SampleResult) -> None:
        """Show a result at its step."""
        path = media_of(result)
        if path is None:
            return
        kind = self._trackio.Video if result.media_type == VIDEO else self._trackio.Image
        picture = kind(str(path), caption=caption_of(result))
        self.run.log({key_of(result): picture, **numbers_of(result)}, step=result.step)

    def close(self) -> None:
        """Hand over what Trackio has not written yet."""
        if self._finish:
            self.run.finish()
