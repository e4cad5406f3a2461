"""Options of a demo, and values derived from them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from rushes_service.demo.clips import CONCEPT_COLOUR, CONCEPT_SHAPE

CHECKPOINTS = 4

CONTROL_LIMIT = 0.5
"""Drift that the last prompt may have, in standard deviations of the base's latents."""


@dataclass(frozen=True)
class Shown:
    """A prompt of the demo, and the shape that a finished LoRA draws for it."""

    text: str
    options: str
    colour: str
    shape: str
    control: bool = False
    """True for the prompt that is to stay as the base model makes it."""


SHOWN = (
    Shown("a zorp moves right on black", "--f 17 --d 7", CONCEPT_COLOUR, CONCEPT_SHAPE),
    Shown("a zorp moves up on brown", "--f 17 --d 11", CONCEPT_COLOUR, CONCEPT_SHAPE),
    Shown("a zorp stays on black", "--f 1 --d 23", CONCEPT_COLOUR, CONCEPT_SHAPE),
    Shown("a blue circle moves left on gray", f"--f 17 --d 5 --dl {CONTROL_LIMIT}", "blue", "circle", control=True),
)
PROMPTS = "# Four samples of every checkpoint: the concept in two clips and a still, and something else.\n" + "".join(
    f"{shown.text} --w 64 --h 64 {shown.options} --s 20 --l 4 --fs 3\n" for shown in SHOWN
)


@dataclass(frozen=True)
class Options:
    """Options of `rushes demo`; `steps` are training steps."""

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
        """Directory of the children's logs."""
        return self.output / "logs"

    @property
    def report(self) -> Path:
        """The trainer's measurements, a JSON file."""
        return self.logs / "trainer.json"

    @property
    def page(self) -> Path:
        """Directory of the exported report."""
        return self.output / "report"

    @property
    def prompt_count(self) -> int:
        """Samples of each checkpoint."""
        return len(SHOWN)
