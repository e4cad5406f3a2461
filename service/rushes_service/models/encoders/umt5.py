"""Wan's text encoder: UMT5, there only as long as a prompt is encoded."""

from __future__ import annotations

import torch
from diffusers import WanPipeline
from transformers import AutoTokenizer, UMT5EncoderModel

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.encoder import LazyEncoder

TEXT_TOKENS = 512
"""Wan's attention takes this many text tokens for granted, whatever the prompt's length."""


class TextEncoder(LazyEncoder):
    """UMT5. Encodes through `WanPipeline`, which pads with zeros to 512 tokens."""

    @torch.no_grad()
    def encode(self, text: str) -> Conditioning:
        """Embedding of one text: `embeds` [1, 512, text_dim].

        Raises:
            ModelError: the model has no text encoder or tokenizer, or they cannot be loaded.
        """
        embeds, _ = self.loaded.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS, device=self.device
        )
        return {"embeds": embeds}

    def load(self) -> WanPipeline:
        return WanPipeline(
            tokenizer=self.part("tokenizer", AutoTokenizer),
            text_encoder=self.encoder("text_encoder", UMT5EncoderModel),
            vae=None,
            scheduler=None,
            transformer=None,
        )
