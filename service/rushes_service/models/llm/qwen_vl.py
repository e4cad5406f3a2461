"""Qwen-Image's text encoder: Qwen2.5-VL inside a system prompt, which is cut off again.

Facts are musubi-tuner 0.3.4's (qwen_image/qwen_image_utils.py): the last hidden states, after the final norm, without
the first 34 tokens, of 1024 tokens of text at most. diffusers' pipeline has the same template and cut.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import QwenImagePipeline
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLTextModel

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.encoder import LazyEncoder, headless


class QwenImageText(LazyEncoder):
    """Qwen2.5-VL, reading words alone."""

    @torch.no_grad()
    def encode(self, text: str) -> Conditioning:
        """Embedding of one text: `embeds` [1, n, 3584], a row for each of its tokens."""
        embeds, _ = self.loaded.encode_prompt(text, device=self.device)
        return {"embeds": embeds}

    def load(self) -> Any:
        return QwenImagePipeline(
            tokenizer=self.part("tokenizer", AutoTokenizer),
            text_encoder=self.encoder("text_encoder", Qwen2_5_VLForConditionalGeneration, needed=headless),
            vae=None,
            scheduler=None,
            transformer=None,
        )


def language_model(encoder: LazyEncoder, name: str) -> Any:
    """Qwen2.5-VL without its eyes and its head, on the device; it is published with eyes and alone.

    Raises:
        ModelError: it is not there, or cannot be loaded.
    """
    whole = Qwen2_5_VLForConditionalGeneration
    if "vision_config" in encoder.source.config(name, whole):
        return encoder.encoder(name, whole, needed=lambda model: model.model.language_model)
    return encoder.encoder(name, Qwen2_5_VLTextModel)
