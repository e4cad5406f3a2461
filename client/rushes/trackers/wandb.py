"""Weights & Biases.

Its own step only ever rises: what is logged under a past step is dropped, and what is logged without one moves the
counter, so that the trainer's next values are dropped instead. So samples carry their step in a value of their own,
`rushes/step`, which is the horizontal axis of `sample_*`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from rushes.trackers.base import VIDEO, caption_of, key_of, media_of, needed, numbers_of
from rushes.wire.base import digest
from rushes.wire.results import SampleResult

STEP = "rushes/step"


class WandbTracker:
    """Logs results into a W&B run.

    In a trainer's own run samples never make a row: they join the one that the trainer is filling, those of one
    training step per row, and the trainer's step goes on as it would have.

    Args:
        run: the trainer's own (`wandb.run`), or one that is made for samples alone, see `start`.
        shared: whether somebody else logs into the run, too.
    """

    def __init__(self, run: Any, *, shared: bool = True) -> None:
        self._wandb: Any = needed("wandb", "wandb")
        self.run = run
        self.shared = shared
        self._held: OrderedDict[int, dict[str, Any]] = OrderedDict()
        """What waits for a row of the trainer's, by training step."""
        self._row: int | None = None
        """The trainer's step whose row has samples in it."""
        run.define_metric(STEP, hidden=True)
        run.define_metric("sample_*", step_metric=STEP)

    @classmethod
    def start(cls, project: str, name: str, *, entity: str | None = None, mode: str | None = None) -> WandbTracker:
        """A W&B run for the samples of the training run `name`; the same one each time it is asked for.

        Raises:
            ConfigError: wandb is not installed.
        """
        wandb = needed("wandb", "wandb")
        run = wandb.init(
            project=project,
            entity=entity,
            name=name,
            id=f"rushes-{digest([project, name])}",
            resume="allow",
            reinit="create_new",  # beside those of other training runs
            job_type="samples",
            mode=mode,
        )
        return cls(run, shared=False)

    def log(self, result: SampleResult) -> None:
        """Show a result at its step: at once, or with the trainer's next row."""
        path = media_of(result)
        if path is not None:
            caption = caption_of(result)
            if result.media_type == VIDEO:
                picture = self._wandb.Video(str(path), caption=caption, format="mp4")
            else:
                picture = self._wandb.Image(str(path), caption=caption)
            self._held.setdefault(result.step, {})[key_of(result)] = picture
            for name, value in numbers_of(result).items():
                self.run.define_metric(name, step_metric=STEP)
                self._held[result.step][name] = value
        self._send()

    def flush(self) -> None:
        """Put what waits into the trainer's current row, if that has no samples yet; `log` does so, too."""
        self._send()

    def close(self) -> None:
        """Log what still waits, in rows of their own: call this when the trainer has logged its last."""
        while self._held:
            self._take(commit=True)
        if not self.shared:
            self.run.finish()

    def _send(self) -> None:
        while self._held and not self.shared:
            self._take(commit=True)
        if self._held and (row := int(self.run.step)) != self._row:
            self._take(commit=False)
            self._row = row

    def _take(self, *, commit: bool) -> None:
        """Log the samples of one training step."""
        step, pictures = self._held.popitem(last=False)
        self.run.log({STEP: step, **pictures}, commit=commit)
