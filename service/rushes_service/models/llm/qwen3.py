"""Z-Image's text encoder: Qwen3 in its own chat template, with room to think.

Facts are musubi-tuner 0.3.4's (zimage/zimage_utils.py): the last but one hidden states of 512 tokens at most; nothing
is cut off, padding is left out. diffusers' pipeline does the same.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ZImagePipeline
from transformers import AutoTokenizer

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.llm.lazy import LazyEncoder
from rushes_service.runtime.compat_transformers import Qwen3


class ZImageText(LazyEncoder):
    """Qwen3 4B."""

    @torch.no_grad()
    def encode(self, text: str) -> Conditioning:
        """Embedding of one text: `embeds` [n, 2560], a row for each of its tokens."""
        (embeds,), _ = self.loaded.encode_prompt(text, device=self.device, do_classifier_free_guidance=False)
        return {"embeds": embeds}

    def load(self) -> Any:
        return ZImagePipeline(
            tokenizer=self.part("tokenizer", AutoTokenizer),
            text_encoder=self.encoder("text_encoder", Qwen3),
            vae=None,
            scheduler=None,
            transformer=None,
        )
