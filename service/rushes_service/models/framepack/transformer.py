"""FramePack's transformer: diffusers' modules and weights, called so that any part of the history may be left out.

diffusers' own `forward` takes all of it for granted and raises `UnboundLocalError` without. The model reads one packed
sequence, oldest context first: history at a quarter of the resolution, at half, clean frames, and last the noisy
frames themselves; what places each token in time are the indices given with its frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from torch.nn import functional as F  # noqa: N812  # its usual name

from rushes_service.runtime.compat_diffusers_models import Rotation, pooled_rotation

BY_HALF, BY_QUARTER = (2, 2, 2), (4, 4, 4)
"""Tokens of a coarser history stand for this many frames, rows and columns of tokens."""


@dataclass(frozen=True)
class Frames:
    """Latents [1, 16, T, h, w] and the place in time of each of their T frames, int64 [T]."""

    latents: torch.Tensor
    places: torch.Tensor

    def to(self, dtype: torch.dtype) -> Frames:
        """The same in another precision."""
        return Frames(self.latents.to(dtype), self.places)


@dataclass(frozen=True)
class History:
    """What the model is shown besides the frames it denoises, by resolution; coarser parts may be left out."""

    clean: Frames
    half: Frames | None = None
    quarter: Frames | None = None

    def to(self, dtype: torch.dtype) -> History:
        """The same in another precision."""
        return History(*(part and part.to(dtype) for part in (self.clean, self.half, self.quarter)))


@dataclass(frozen=True)
class Words:
    """A text, and the image that goes with it, as embeddings: [1, n, text_dim], [1, pooled_dim], [1, m, image_dim]."""

    text: torch.Tensor
    pooled: torch.Tensor
    image: torch.Tensor


class FramePackTransformer(HunyuanVideoFramepackTransformer3DModel):
    """diffusers' model with a `forward` of its own; one sample at a time."""

    def forward(
        self, noisy: Frames, history: History, words: Words, timestep: torch.Tensor, guidance: torch.Tensor
    ) -> torch.Tensor:
        """Velocity of `noisy`, float32 of its shape.

        Args:
            timestep: [1], 0 to 1000.
            guidance: embedded guidance times 1000, [1].
        """
        time, _ = self.time_text_embed(timestep, words.pooled, guidance)
        image = self.image_projection(words.image)
        context = torch.cat([image, self.context_embedder(words.text, timestep, None)], dim=1)
        tokens, rotation = self.pack(noisy, history)
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            tokens, context = block(tokens, context, time, None, rotation)
        frames, height, width = noisy.latents.shape[-3:]
        size = self.config.patch_size
        tokens = tokens[:, -(frames * (height // size) * (width // size)) :]
        return self.unpatch(self.norm_out(tokens, time), frames, height // size, width // size)

    def pack(self, noisy: Frames, history: History) -> tuple[torch.Tensor, Rotation]:
        """All tokens [1, n, width], coarsest history first, and their rotary embedding."""
        parts = (history.clean, history.half, history.quarter)
        clean, half, quarter = self.clean_x_embedder(*(part and part.latents for part in parts))
        sequence = (
            (history.quarter, quarter, BY_QUARTER),
            (history.half, half, BY_HALF),
            (history.clean, clean, None),
            (noisy, self.x_embedder(noisy.latents), None),
        )
        present = [(frames, tokens, pooling) for frames, tokens, pooling in sequence if frames is not None]
        rotations = [self.rotation(frames, pooling) for frames, _, pooling in present]
        cosines, sines = (torch.cat(halves) for halves in zip(*rotations, strict=True))
        return torch.cat([tokens for _, tokens, _ in present], dim=1), (cosines, sines)

    def rotation(self, frames: Frames, pooling: tuple[int, int, int] | None = None) -> Rotation:
        """Rotary embedding of the tokens of `frames`, averaged where a token stands for several."""
        height, width = frames.latents.shape[-2:]
        rotation: Rotation = self.rope(
            frame_indices=frames.places, height=height, width=width, device=frames.latents.device
        )
        if pooling is None:
            return rotation
        size = self.config.patch_size
        return pooled_rotation(self, rotation, height // size, width // size, pooling)

    def unpatch(self, tokens: torch.Tensor, frames: int, rows: int, columns: int) -> torch.Tensor:
        """Latents [1, C, frames, h, w] of the noisy frames' tokens; projected in float32, as the reference does."""
        size = self.config.patch_size
        patches = F.linear(tokens.float(), self.proj_out.weight.float(), self.proj_out.bias.float())
        patches = patches.reshape(1, frames, rows, columns, -1, size, size)
        return patches.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
