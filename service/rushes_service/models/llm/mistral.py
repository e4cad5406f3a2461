"""FLUX.2 dev's text encoder: Mistral Small behind a system message.

Facts are musubi-tuner 0.3.4's (flux_2/flux2_utils.py): hidden states 10, 20 and 30 beside each other, 512 tokens, the
padding among them. diffusers' pipeline does the same.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Flux2Pipeline
from transformers import AutoTokenizer, Mistral3ForConditionalGeneration

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.encoder import LazyEncoder, headless


class Flux2DevText(LazyEncoder):
    """Mistral Small 3.1, reading words alone."""

    @torch.no_grad()
    def encode(self, text: str) -> Conditioning:
        """Embedding of one text: `embeds` [1, 512, 15360]."""
        embeds, _ = self.loaded.encode_prompt(text, device=self.device)
        return {"embeds": embeds}

    def load(self) -> Any:
        return Flux2Pipeline(
            tokenizer=self.part("tokenizer", AutoTokenizer),
            text_encoder=self.encoder("text_encoder", Mistral3ForConditionalGeneration, needed=headless),
            vae=None,
            scheduler=None,
            transformer=None,
        )
