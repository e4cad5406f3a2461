"""How well pictures and prompt agree, and how near pictures are to others: CLIP or SigLIP of transformers.

A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021; the agreement is
CLIPScore's cosine without its factor (J. Hessel et al., "CLIPScore", 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from rushes.errors import ConfigError

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})

MOST_FRAMES = 8
"""Frames of a clip that are scored, evenly spread."""

BATCH = 16


class ClipScore:
    """Cosine similarities in the space of a CLIP or SigLIP model.

    `clip`: of frames and prompt, the mean over frames. With training pictures also `clip_images`, the mean over frames
    and pictures, and `clip_nearest`, the largest of any frame and picture: near 1 it is a sign of memorising.

    Args:
        model: directory or hub id of a model with a text and a picture half.
        images: directory of training pictures, searched with those in it.

    Raises:
        ConfigError: the model cannot be loaded, or there is no picture.
    """

    def __init__(self, model: str, *, images: Path | None = None, device: str = "cpu") -> None:
        from transformers import AutoModel, AutoProcessor

        if not model:
            raise ConfigError("--score clip=MODEL: name a directory or a hub id")
        try:
            self._model: Any = AutoModel.from_pretrained(model).to(device).eval()
            self._processor: Any = AutoProcessor.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--score clip={model}: {str(error).splitlines()[0]}") from error
        if not hasattr(self._model, "get_text_features"):
            raise ConfigError(
                f"--score clip={model}: {type(self._model).__name__} has no text half; name a CLIP or SigLIP"
            )
        self._device = device
        self._training = self._pictures(read_pictures(images)) if images else None

    @torch.no_grad()
    def __call__(self, frames: np.ndarray, prompt: str) -> Mapping[str, float]:
        """The similarities for frames, uint8 [T, H, W, 3]."""
        chosen = frames[np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().astype(int)]
        pictures = self._pictures([Image.fromarray(frame) for frame in chosen])
        found = {"clip": float((pictures @ self._text(prompt).T).mean())}
        if self._training is not None:
            similarities = pictures @ self._training.T
            found |= {"clip_images": float(similarities.mean()), "clip_nearest": float(similarities.max())}
        return found

    def _text(self, prompt: str) -> torch.Tensor:
        """The prompt as a unit vector [1, D]."""
        # SigLIP is trained on texts of full length.
        padding = "max_length" if "siglip" in str(self._model.config.model_type) else True
        inputs = self._processor(text=[prompt], return_tensors="pt", padding=padding, truncation=True)
        return unit(self._model.get_text_features(**inputs.to(self._device)))

    @torch.no_grad()
    def _pictures(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Pictures as unit vectors [N, D]."""
        found = []
        for start in range(0, len(pictures), BATCH):
            inputs = self._processor(images=list(pictures[start : start + BATCH]), return_tensors="pt")
            found.append(unit(self._model.get_image_features(**inputs.to(self._device))))
        return torch.cat(found)


def unit(features: Any) -> torch.Tensor:
    """Features as unit vectors; newer versions of transformers wrap them."""
    vectors = features if isinstance(features, torch.Tensor) else features.pooler_output
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def read_pictures(directory: Path) -> list[Image.Image]:
    """The pictures below a directory.

    Raises:
        ConfigError: there is none, or one cannot be read.
    """
    files = sorted(path for path in directory.rglob("*") if path.suffix.lower() in PICTURES)
    if not files:
        raise ConfigError(f"--score_images {directory}: there is no picture")
    found = []
    for path in files:
        try:
            with Image.open(path) as image:
                found.append(image.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise ConfigError(f"--score_images {directory}: {path.name} cannot be read: {error}") from error
    return found
