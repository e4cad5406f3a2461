"""HunyuanVideo 1.5's text encoders: Qwen2.5-VL for the prompt, ByT5 for the words that are to be seen in the picture.

Facts are musubi-tuner 0.3.4's (hunyuan_video_1_5_text_encoder.py). diffusers' `encode_prompt` differs: in its system
prompt the points are separated by blanks instead of newlines, an empty prompt becomes a blank, quoted texts are in the
order of the prompt without repetitions, and 256 bytes of them are read instead of 128.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import AutoTokenizer, T5EncoderModel

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.encoder import LazyEncoder
from rushes_service.models.encoder_store import Key
from rushes_service.models.llm.qwen_vl import language_model

POINTS = (
    "You are a helpful assistant. Describe the video by detailing the following aspects: ",
    "1. The main content and theme of the video. ",
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects. ",
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects. ",
    "4. background environment, light, style and atmosphere. ",
    "5. camera angles, movements, and transitions used in the video.",
)
SYSTEM = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n".format("\n".join(POINTS))
"""What stands before the prompt, and is cut off again."""

AFTER = "<|im_end|>\n<|im_start|>assistant\n"
TEXT_TOKENS = 1024
GLYPH_TOKENS = 128
LAYER = -3
"""Of Qwen's hidden states."""

QUOTED = (re.compile(r"\"(.*?)\""), re.compile(r"“(.*?)”"))
"""Texts in straight quotes come first, then those in curly ones."""


class HunyuanVideo15Text(LazyEncoder):
    """Qwen2.5-VL, reading words alone, and ByT5.

    Args:
        glyph_dtype: precision of ByT5.
    """

    parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")

    def __init__(self, *args: Any, glyph_dtype: torch.dtype, **options: Any) -> None:
        super().__init__(*args, **options)
        self.glyph_dtype = glyph_dtype

    @property
    def key(self) -> Key:
        return *super().key, str(self.glyph_dtype)

    @torch.no_grad()
    def encode(self, text: str) -> Conditioning:
        """Embeddings of one prompt, a row for each token: `embeds` [1, n, 3584], `glyphs` [1, m, 1472], m may be 0.

        Raises:
            ModelError: an encoder or a tokenizer is not there, or cannot be loaded.
        """
        words, model, letters, reader = self.loaded
        cut = len(words(SYSTEM)["input_ids"])
        tokens = words(SYSTEM + text + AFTER, max_length=TEXT_TOKENS + cut, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.device)
        states = model(**tokens, output_hidden_states=True).hidden_states[LAYER]
        return {"embeds": states[:, cut:].contiguous(), "glyphs": self.glyphs(glyph_text(text), letters, reader)}

    def glyphs(self, text: str, letters: Any, reader: Any) -> torch.Tensor:
        """ByT5's embedding [1, m, width] of the texts that the prompt quotes."""
        if not text:
            return torch.zeros(1, 0, reader.config.d_model, dtype=self.glyph_dtype, device=self.device)
        tokens = letters(text, max_length=GLYPH_TOKENS, truncation=True, return_tensors="pt").to(self.device)
        return reader(**tokens).last_hidden_state

    def load(self) -> tuple[Any, Any, Any, Any]:
        reader = self.encoder("text_encoder_2", T5EncoderModel, dtype=self.glyph_dtype, rounded=None)
        words, letters = (self.part(name, AutoTokenizer) for name in ("tokenizer", "tokenizer_2"))
        return words, language_model(self, "text_encoder"), letters, reader


def glyph_text(prompt: str) -> str:
    """What ByT5 reads: `Text "..." ` for each text that `prompt` quotes; empty if it quotes none."""
    return "".join(f'Text "{found}". ' for pattern in QUOTED for found in pattern.findall(prompt))
