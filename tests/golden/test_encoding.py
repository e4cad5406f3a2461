"""Prompts and pictures are encoded as the reference's `process_sample_prompts` does, with the same tiny encoders."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from golden_support import GOLDEN, distance
from rushes.families.parameters import resolve
from rushes.families.rows.wan import WAN21_T2V
from rushes.prompts.files import load_prompts
from rushes.wire.jobs import Prompt
from rushes_service.models.encoders.llama_clip import HunyuanText
from rushes_service.models.encoders.siglip import ImageEncoder
from rushes_service.models.encoders.t5_clip import TextEncoders
from rushes_service.models.encoders.umt5 import TextEncoder
from rushes_service.models.framepack.video import unpadded
from rushes_service.models.inputs.images import fit, open_image
from rushes_service.models.loading.from_repo import ModelSource

RECORDED = GOLDEN / "encoding"
TOLERANCE = 1e-4
"""Of the largest value. Measured: 8e-6 for T5 (the recording was made by another version of transformers), 3e-7 and
less elsewhere; one more letter, or one token more cut off, makes 0.2 and more."""

PROMPTS = range(3)
"""Plain; with an HTML entity and runs of blanks; longer than any encoder takes."""


@cache
def expected(family: str) -> dict[str, torch.Tensor]:
    return load_file(RECORDED / family / "expected.safetensors")


def prompt(index: int) -> Prompt:
    return load_prompts(RECORDED / "prompts.txt")[index]


def encoder(kind: Any, family: str) -> Any:
    return kind(ModelSource(Path(RECORDED / family), None), torch.device("cpu"), torch.float32)


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert distance(found, wanted) <= TOLERANCE * float(wanted.abs().max())


@pytest.mark.parametrize("index", PROMPTS)
def test_flux_encodes_with_t5_and_clip(index):
    found = encoder(TextEncoders, "flux").encode(prompt(index).prompt)
    assert_close(found["prompt_embeds"], expected("flux")[f"{index}.t5_vec"])
    assert_close(found["pooled_prompt_embeds"], expected("flux")[f"{index}.clip_l_pooler"])


def texts(index: int) -> dict[str, str]:
    """The texts of a prompt by the prefix of their recorded names."""
    asked = prompt(index)
    found = {"": asked.prompt, "negative_": asked.negative_prompt}
    return {prefix: text for prefix, text in found.items() if text is not None}


@pytest.mark.parametrize("index", PROMPTS)
def test_hunyuan_video_encodes_with_llama_inside_its_template_and_clip(index):
    for prefix, text in texts(index).items():
        found = encoder(HunyuanText, "hunyuan").encode(text)
        wanted = {
            name: expected("hunyuan")[f"{index}.{prefix}{name}"] for name in ("llm_embeds", "llm_mask", "clipL_embeds")
        }
        assert torch.equal(found["prompt_attention_mask"], wanted["llm_mask"])
        assert_close(found["prompt_embeds"], wanted["llm_embeds"])
        assert_close(found["pooled_prompt_embeds"], wanted["clipL_embeds"])


@pytest.mark.parametrize("index", PROMPTS)
def test_framepack_encodes_as_many_tokens_as_the_reference_does_not_mask(index):
    for prefix, text in {"negative_": "", **texts(index)}.items():
        found = unpadded(encoder(HunyuanText, "hunyuan").encode(text))
        mask = expected("framepack")[f"{index}.{prefix}llama_attention_mask"]
        assert_close(found["text"], expected("framepack")[f"{index}.{prefix}llama_vec"][mask][None])
        assert_close(found["pooled"], expected("framepack")[f"{index}.{prefix}clip_l_pooler"])


def test_framepack_encodes_pictures_with_siglip():
    asked = prompt(0)
    picture = fit(open_image(str(asked.image_path), "image_path"), asked.width or 0, asked.height or 0)
    found = encoder(ImageEncoder, "hunyuan").encode(picture)
    assert_close(found["image"], expected("framepack")["0.image_encoder_last_hidden_state"])


@pytest.mark.parametrize("index", PROMPTS)
def test_wan_encodes_cleaned_text_with_umt5_and_pads_with_zeros(index):
    parameters, _ = resolve(prompt(index), WAN21_T2V)
    for name, text in {"t5_embeds": parameters.prompt, "negative_t5_embeds": parameters.negative_prompt}.items():
        found = encoder(TextEncoder, "wan").encode(str(text))["embeds"]
        wanted = expected("wan")[f"{index}.{name}"]
        assert found.shape == (1, 512, 32)
        assert_close(found[0, : len(wanted)], wanted)
        assert not found[0, len(wanted) :].any()
