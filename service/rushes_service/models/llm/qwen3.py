"""Qwen3 in its own chat template, as the text encoder of Z-Image and of FLUX.2 klein.

Facts are musubi-tuner 0.3.4's. Z-Image (zimage/zimage_utils.py): with room to think, the last but one hidden states of
512 tokens at most; nothing is cut off, padding is left out. FLUX.2 klein (flux_2/flux2_utils.py): without, hidden
states 9, 18 and 27 beside each other, 512 tokens, the padding among them. diffusers' pipelines do the same.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Flux2KleinPipeline, ZImagePipeline
from transformers import AutoTokenizer

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.encoder import LazyEncoder
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


class KleinText(LazyEncoder):
    """Qwen3 4B or 8B."""

    @torch.no_grad()
    def encode(self, text: str) -> Conditioning:
        """Embedding of one text: `embeds` [1, 512, 3 dim]."""
        embeds, _ = self.loaded.encode_prompt(text, device=self.device)
        return {"embeds": embeds}

    def load(self) -> Any:
        return Flux2KleinPipeline(
            tokenizer=self.part("tokenizer", AutoTokenizer),
            text_encoder=self.encoder("text_encoder", Qwen3),
            vae=None,
            scheduler=None,
            transformer=None,
        )
