"""Progress of the demo: bars in a terminal, a few lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Display:
    """Training and sampling, side by side. As a context manager it owns the last lines of a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._bars = bars(console) if console.is_terminal else None
        self._training = self._bars.add_task("training", total=None, note="starting") if self._bars else None
        self._sampling = self._bars.add_task("sampling", total=None, note="starting") if self._bars else None
        self._shown: tuple[int, int] = (0, 0)

    def __enter__(self) -> Display:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def print_line(self, text: str) -> None:
        """One line, with the seconds since the demo began."""
        self._console.print(f"{time.monotonic() - self._started:5.1f} s  {text}", markup=False, highlight=False)

    def trained(self, step: int, total: int, loss: float, *, milestone: bool) -> None:
        """A training step was taken; `milestone` ones are worth a line of their own."""
        if self._bars and self._training is not None:
            self._bars.update(self._training, completed=step, total=total, note=f"loss {loss:.3f}")
        elif milestone:
            self.print_line(f"training  step {step}/{total}, loss {loss:.3f}")

    def sampled(self, done: int, total: int, note: str) -> None:
        """`done` of `total` samples have ended; `note` names the current stage."""
        if self._bars and self._sampling is not None:
            self._bars.update(self._sampling, completed=done, total=total, note=note)
        elif (done, total) != self._shown and done:
            self.print_line(f"sampling  {done}/{total} done")
        self._shown = (done, total)


def bars(console: Console) -> Progress:
    """Bars that stay on screen when they are full."""
    return Progress(
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=36),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=console,
    )
