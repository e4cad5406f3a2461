"""FramePack's image encoder, SigLIP: there only as long as a picture is encoded."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from transformers import SiglipVisionModel

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.encoder import LazyEncoder
from rushes_service.runtime.compat_transformers import PillowSiglipProcessor

IMAGE_PARTS = ("image_encoder", "feature_extractor")
"""Components that a picture's embedding depends on."""


class ImageEncoder(LazyEncoder):
    """SigLIP."""

    parts = IMAGE_PARTS

    @torch.no_grad()
    def encode(self, picture: np.ndarray) -> Conditioning:
        """Embedding of a picture, uint8 [H, W, 3]: `image` [1, n, dim].

        From bytes, as the reference does; diffusers' pipeline resizes floats, which rounds differently.

        Raises:
            ModelError: the model has no image encoder or processor, or they cannot be loaded.
        """
        processor, encoder = self.loaded
        inputs = processor(images=picture, return_tensors="pt").to(self.device, self.dtype)
        return {"image": encoder(**inputs).last_hidden_state}

    def load(self) -> tuple[Any, Any]:
        processor = self.part("feature_extractor", PillowSiglipProcessor)
        encoder = self.encoder("image_encoder", SiglipVisionModel)
        size = encoder.config.image_size
        processor.size = {"height": size, "width": size}  # what a processor of another size makes is of no use
        return processor, encoder


def picture_digest(picture: np.ndarray) -> str:
    """Hex digest of a picture's bytes and size."""
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()
