"""When a training run is sampled. The rules are musubi-tuner's own."""

from __future__ import annotations

from dataclasses import dataclass

from rushes.errors import ConfigError


@dataclass(frozen=True)
class Cadence:
    """Sample every so many steps, every so many epochs, and before the first step.

    Steps and epochs both trigger; None or 0 means "not by this".

    Raises:
        ConfigError: a number below zero.
    """

    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    at_first: bool = False

    def __post_init__(self) -> None:
        for flag, value in (
            ("--sample_every_n_steps", self.every_n_steps),
            ("--sample_every_n_epochs", self.every_n_epochs),
        ):
            if value is not None and value < 0:
                raise ConfigError(f"{flag} {value}: must be 1 or more")

    def due(self, *, step: int, epoch: int | None = None) -> bool:
        """True when the run is to be sampled now.

        Args:
            step: optimizer steps done; 0 before the first.
            epoch: epochs done, given at the end of an epoch only; None inside one.
        """
        if step == 0:
            return self.at_first
        by_step = bool(self.every_n_steps) and step % (self.every_n_steps or 1) == 0
        by_epoch = bool(self.every_n_epochs) and epoch is not None and epoch % (self.every_n_epochs or 1) == 0
        return by_step or by_epoch
