"""CLIP's tokens of a start image are those the reference prepares its samples with."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from golden_support import Case, distance
from rushes_service.models.encoders.clip_vision import COMPONENT, ClipVision
from rushes_service.models.inputs.images import open_image
from rushes_service.models.loading.from_repo import ModelSource

CASE = Case("wan_clip")
TOLERANCE = 1e-5
"""The picture is wide: cut to a square instead of squeezed, its tokens are off by more than 1."""


def recorded_encoder(directory: Path) -> ModelSource:
    """A model directory that holds the recorded image encoder."""
    encoder = CLIPVisionModel(CLIPVisionConfig(**CASE.facts["transformers"]["CLIPVisionConfig"]))
    encoder.load_state_dict(CASE.tensors("image_encoder"))
    encoder.save_pretrained(directory / COMPONENT)
    return ModelSource(directory, None)


def test_image_tokens_are_the_references(tmp_path):
    source, picture = recorded_encoder(tmp_path), open_image(CASE.directory / "input.png", "image_path")
    wanted = CASE.expected["clip_context"]
    assert distance(ClipVision(source, torch.device("cpu")).encode(picture), wanted) <= TOLERANCE
    cut = picture.crop((20, 0, 70, 50))
    assert distance(ClipVision(source, torch.device("cpu")).encode(cut), wanted) > 0.1
