"""What a demo was asked to do, and what follows from it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

CHECKPOINTS = 4

PROMPTS = """\
# Three samples of every checkpoint: two clips and a still.
a red disc moving right --w 96 --h 64 --f 17 --s 8 --d 7
a blue square moving up --w 96 --h 64 --f 9 --s 8 --d 11
a green ring --w 96 --h 64 --f 1 --s 8 --d 23
"""


@dataclass(frozen=True)
class Options:
    """What `rushes demo` was asked to do; `steps` are the trainer's."""

    output: Path
    steps: int
    once: bool
    keep: bool
    run: str = field(default_factory=lambda: time.strftime("demo-%Y%m%d-%H%M%S"))
    """Name of the run: its own each time, whatever an earlier demo left in the output directory."""

    @property
    def every(self) -> int:
        """Training steps between two checkpoints."""
        return self.steps // CHECKPOINTS

    @property
    def sampled_steps(self) -> list[int]:
        """Steps whose checkpoint is sampled; 0 is the base model."""
        return list(range(0, self.steps + 1, self.every))

    @property
    def sample_count(self) -> int:
        """Samples of all checkpoints."""
        return len(self.sampled_steps) * self.prompt_count

    @property
    def logs(self) -> Path:
        """What each child printed."""
        return self.output / "logs"

    @property
    def report(self) -> Path:
        """What the trainer measured."""
        return self.logs / "trainer.json"

    @property
    def prompt_count(self) -> int:
        """Samples of each checkpoint."""
        return sum(bool(line) and not line.startswith("#") for line in PROMPTS.splitlines())
