"""Krea 2's text encoder: Qwen3-VL inside Qwen-Image's system prompt, twelve of its hidden states for each token.

Facts are musubi-tuner 0.3.4's (krea2/krea2_encoder.py): hidden states 2, 5, ... 35, the first 34 tokens cut off, 507
tokens of text at most. A text is padded before the end of the user's turn, not behind it; padding takes no place and
is dropped afterwards. diffusers' pipeline encodes likewise and keeps the padding.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Krea2Pipeline
from transformers import AutoTokenizer, Qwen3VLModel

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.encoder import LazyEncoder


class Krea2Text(LazyEncoder):
    """Qwen3-VL 4B, reading words alone."""

    @torch.no_grad()
    def encode(self, text: str) -> Conditioning:
        """Embedding of one text: `embeds` [n, 12, 2560], a row for each of its tokens."""
        states, valid = self.loaded.get_text_hidden_states(text, device=self.device)
        return {"embeds": states[0][valid[0]]}

    def load(self) -> Any:
        return Krea2Pipeline(
            tokenizer=self.part("tokenizer", AutoTokenizer),
            text_encoder=self.encoder("text_encoder", Qwen3VLModel),
            vae=None,
            scheduler=None,
            transformer=None,
        )


def krea2_cut() -> tuple[str, int]:
    """What stands before a prompt, and of how many tokens that is to be."""
    pipe = Krea2Pipeline(None, None, None, None, None)
    return pipe.prompt_template_encode_prefix, pipe.prompt_template_encode_start_idx
