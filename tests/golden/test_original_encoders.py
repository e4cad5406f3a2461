"""UMT5 and CLIP's image encoder as Wan releases them compute what their own modules do."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from transformers import CLIPVisionModel, UMT5EncoderModel

from golden_support import GOLDEN, distance
from rushes_service.models.loading.building import build
from rushes_service.models.loading.files.headers import read_header

FILES = GOLDEN / "original_encoders"
TOLERANCE = 1e-4
"""Of values up to 4; one name of the tables changed for another moves them by 0.1 and more."""


@torch.no_grad()
def test_umt5_of_wan():
    recorded = load_file(FILES / "expected.safetensors")
    model = build(read_header(FILES / "umt5.pth"), UMT5EncoderModel)
    found = model(input_ids=recorded["ids"], attention_mask=recorded["mask"]).last_hidden_state
    words = int(recorded["mask"].sum())
    assert distance(found[:, :words], recorded["umt5"][:, :words]) <= TOLERANCE


@torch.no_grad()
def test_clip_of_wan():
    recorded = load_file(FILES / "expected.safetensors")
    model = build(read_header(FILES / "clip_vision.pth"), CLIPVisionModel)
    found = model(pixel_values=recorded["pixels"], output_hidden_states=True).hidden_states[-2]
    assert distance(found, recorded["clip"]) <= TOLERANCE
