"""FramePack's image encoder, SigLIP: there only as long as a picture is encoded."""

from __future__ import annotations

import gc
import hashlib
from typing import Any

import numpy as np
import torch
from transformers import SiglipVisionModel

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.encoders.llama_clip import loaded_part
from rushes_service.models.loading.from_repo import Source
from rushes_service.runtime.compat_transformers import PillowSiglipProcessor

IMAGE_PARTS = ("image_encoder", "feature_extractor")
"""Components that a picture's embedding depends on."""


class ImageEncoder:
    """SigLIP, loaded at its first use."""

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype) -> None:
        self._source = source
        self._device = device
        self._dtype = dtype
        self._parts: tuple[Any, Any] | None = None

    @torch.no_grad()
    def encode(self, picture: np.ndarray) -> Conditioning:
        """Embedding of a picture, uint8 [H, W, 3]: `image` [1, n, dim].

        From bytes, as the reference does; diffusers' pipeline resizes floats, which rounds differently.

        Raises:
            ModelError: the model has no image encoder or processor, or they cannot be loaded.
        """
        if self._parts is None:
            self._parts = self._load()
        processor, encoder = self._parts
        inputs = processor(images=picture, return_tensors="pt").to(self._device, self._dtype)
        return {"image": encoder(**inputs).last_hidden_state}

    def _load(self) -> tuple[Any, Any]:
        processor = loaded_part(self._source, "feature_extractor", PillowSiglipProcessor)
        encoder = self._source.load("image_encoder", SiglipVisionModel, self._dtype)
        size = encoder.config.image_size
        processor.size = {"height": size, "width": size}  # what a processor of another size makes is of no use
        return processor, encoder.to(self._device).eval()

    def free(self) -> None:
        """Give the encoder's memory back."""
        if self._parts is not None:
            self._parts = None
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()


def picture_digest(picture: np.ndarray) -> str:
    """Hex digest of a picture's bytes and size."""
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()
