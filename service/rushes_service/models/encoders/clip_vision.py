"""Wan's image encoder: CLIP's vision tower, there only as long as a start image is encoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers import CLIPVisionModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from rushes_service.models.encoder import LazyEncoder
from rushes_service.models.encoder_store import EncoderStore
from rushes_service.models.inputs.images import to_signed
from rushes_service.models.loading.from_repo import Source

COMPONENT = "image_encoder"
DTYPE = torch.float32
"""As diffusers advises for Wan; one picture takes little time."""


class ClipVision(LazyEncoder):
    """CLIP's vision tower."""

    parts = (COMPONENT,)

    def __init__(self, source: Source, device: torch.device, store: EncoderStore | None = None) -> None:
        super().__init__(source, device, DTYPE, store)

    @torch.no_grad()
    def encode(self, image: Image.Image) -> torch.Tensor:
        """Tokens [1, 257, image_dim] of `image` (RGB), as the last but one layer makes them.

        Raises:
            ModelError: the model has no image encoder, or it cannot be loaded.
        """
        encoder = self.loaded
        pixels = prepared(image, encoder.config.image_size).to(self.device, self.dtype)
        return encoder(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]

    def load(self) -> Any:
        return self.encoder(COMPONENT, CLIPVisionModel)


def prepared(image: Image.Image, size: int) -> torch.Tensor:
    """CLIP's input [1, 3, size, size]: the whole picture, squeezed to a square.

    So do the reference and Wan's own code; diffusers' image processor scales the short side and cuts the middle out
    instead, and does not see the margins of a wide picture.
    """
    signed = to_signed(np.asarray(image))[None]
    square = interpolate(signed, size=(size, size), mode="bicubic", align_corners=False)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (square * 0.5 + 0.5 - mean) / std
