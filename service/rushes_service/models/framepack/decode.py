"""FramePack's clips, decoded in overlapping chunks.

HunyuanVideo's VAE looks over the whole clip that it is given, so its memory grows with the clip. The reference decodes
one chunk for each section, twice as long as the section, and fades from each chunk into the next where they overlap.
It goes from the end to the start; as no more than two chunks ever meet, the same values can be had from the start on,
with one chunk in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

Decode = Callable[[torch.Tensor], torch.Tensor]
"""Latents [1, 16, T, h, w] to pixels [1, 3, 4(T-1)+1, H, W]."""


def stream_sections(decode: Decode, latents: torch.Tensor, window: int) -> Iterator[torch.Tensor]:
    """Decode a clip of whole sections, [1, 16, k * window + 1, h, w].

    Yields:
        pixels [1, 3, F, H, W] in float32, in the clip's order, 4 * window * k + 1 frames in all.
    """
    overlap = 4 * window - 3
    *earlier, final = chunks(latents.shape[2], window)
    tail: torch.Tensor | None = None
    for start, stop in earlier:
        pixels = decode(latents[:, :, start:stop]).float()
        if tail is not None:
            yield faded(tail, pixels[:, :, :overlap])
            pixels = pixels[:, :, overlap:]
        yield pixels[:, :, :-overlap]
        tail = pixels[:, :, -overlap:]
    pixels = decode(latents[:, :, slice(*final)]).float()
    yield pixels if tail is None else faded(tail, pixels)


def chunks(length: int, window: int) -> list[tuple[int, int]]:
    """Latent frames (start, stop) of each chunk: a section (the first with the start image) and the one after it."""
    starts = [0, *range(1 + window, length, window)]
    stops = [min(max(start, 1) + 2 * window, length) for start in starts]
    return list(zip(starts, stops, strict=True))


def faded(outgoing: torch.Tensor, incoming: torch.Tensor) -> torch.Tensor:
    """From `outgoing` linearly to `incoming` over their frames."""
    weights = torch.linspace(1, 0, outgoing.shape[2], device=outgoing.device).view(1, 1, -1, 1, 1)
    return weights * outgoing + (1 - weights) * incoming
