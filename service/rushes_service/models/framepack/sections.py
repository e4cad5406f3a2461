"""Which frames FramePack makes in which section, and what it is shown of the others.

Places count latent frames. History comes in three resolutions: 16 frames at a quarter, 2 at half, 1 whole, besides the
start image. Two ways through a clip, as published by the authors and in the reference:

- *inverted*: the last section first, each one placed a padding of whole sections after the start image, so that
  every section knows where it began and, but for the first one made, what follows it.
- *F1*: forwards; each section knows the start image and what came before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from rushes_service.models.framepack.transformer import Frames, History

CLEAN, HALF, QUARTER = 1, 2, 16
"""Frames of history at each resolution."""

SHORTCUT_AT = 5
"""From so many sections on, sections in the middle all keep a distance of two from the start."""


def paddings(sections: int) -> list[int]:
    """Sections left out between the start image and each section of an inverted clip, in the order they are made."""
    if sections < SHORTCUT_AT:
        return list(range(sections))[::-1]
    return [3, *[2] * (sections - 3), 1, 0]


class Clip(ABC):
    """A clip while it is made. `start` is the start image's latents [1, 16, 1, h, w]."""

    def __init__(self, start: torch.Tensor, sections: int, window: int) -> None:
        self.start = start
        self.sections = sections
        self.window = window
        self.made = start.new_zeros(*start.shape[:2], CLEAN + HALF + QUARTER, *start.shape[3:])

    @property
    def length(self) -> int:
        """Latent frames of the finished clip."""
        return self.sections * self.window + 1

    def places(self, *lengths: int) -> tuple[torch.Tensor, ...]:
        """Consecutive places in time, in runs of these lengths."""
        return torch.arange(sum(lengths), device=self.start.device).split(lengths)

    @abstractmethod
    def section(self, number: int) -> tuple[torch.Tensor, History]:
        """Places of the frames of the section that is made as number `number` (from 0), and what it is shown."""

    @abstractmethod
    def add(self, latents: torch.Tensor) -> None:
        """Take a new section [1, 16, window, h, w] into the clip."""

    @abstractmethod
    def latents(self) -> torch.Tensor:
        """The finished clip [1, 16, length, h, w], its first frame the start image."""


class InvertedClip(Clip):
    """The last section first."""

    def section(self, number: int) -> tuple[torch.Tensor, History]:
        gap = paddings(self.sections)[number] * self.window
        first, _, places, after, half, quarter = self.places(1, gap, self.window, CLEAN, HALF, QUARTER)
        following, in_half, in_quarter = self.made[:, :, : CLEAN + HALF + QUARTER].split([CLEAN, HALF, QUARTER], dim=2)
        clean = Frames(torch.cat([self.start, following], dim=2), torch.cat([first, after]))
        return places, History(clean, Frames(in_half, half), Frames(in_quarter, quarter))

    def add(self, latents: torch.Tensor) -> None:
        self.made = torch.cat([latents, self.made], dim=2)

    def latents(self) -> torch.Tensor:
        return torch.cat([self.start, self.made[:, :, : self.length - 1]], dim=2)


class ForwardClip(Clip):
    """F1: the first section first."""

    def __init__(self, start: torch.Tensor, sections: int, window: int) -> None:
        super().__init__(start, sections, window)
        self.made = torch.cat([self.made, start], dim=2)

    def section(self, number: int) -> tuple[torch.Tensor, History]:
        first, quarter, half, before, places = self.places(1, QUARTER, HALF, CLEAN, self.window)
        in_quarter, in_half, last = self.made[:, :, -(CLEAN + HALF + QUARTER) :].split([QUARTER, HALF, CLEAN], dim=2)
        clean = Frames(torch.cat([self.start, last], dim=2), torch.cat([first, before]))
        return places, History(clean, Frames(in_half, half), Frames(in_quarter, quarter))

    def add(self, latents: torch.Tensor) -> None:
        self.made = torch.cat([self.made, latents], dim=2)

    def latents(self) -> torch.Tensor:
        return self.made[:, :, -self.length :]
