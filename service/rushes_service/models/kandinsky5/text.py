"""Kandinsky 5's text encoders: Qwen2.5-VL inside a system prompt, which is cut off again, and CLIP's pooled text.

Facts are musubi-tuner 0.3.4's (kandinsky5/models/text_embedders.py): a system prompt for clips and one for pictures,
256 tokens of text (512 in the picture model), the last hidden states, no padding. diffusers' pipelines spell a word of
the system prompts otherwise, clean the text, and cut one token less.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Kandinsky5T2IPipeline, Kandinsky5T2VPipeline
from transformers import AutoTokenizer, CLIPTextModel

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.encoder import LazyEncoder
from rushes_service.models.llm.qwen_vl import language_model

SPELLED = ("You are a prompt engineer", "You are a promt engineer")
"""In diffusers, and in what the models were trained with."""

POOLED_TOKENS = 77


class Kandinsky5Text(LazyEncoder):
    """Qwen2.5-VL, reading words alone, and CLIP."""

    parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")

    @torch.no_grad()
    def encode(self, text: str, *, picture: bool, most: int) -> Conditioning:
        """Embeddings of one prompt: `embeds` [1, n, 3584], a row for each token, and `pooled` [1, 768].

        Args:
            picture: it describes a single picture, not a clip.
            most: tokens of `text`; others are cut off.

        Raises:
            ModelError: an encoder or a tokenizer is not there, or cannot be loaded.
        """
        words, model, pooled_words, pooling = self.loaded
        before, after = template(picture=picture)
        cut = len(words(before)["input_ids"])
        tokens = words(before + text + after, max_length=most + cut, truncation=True, return_tensors="pt")
        states = model(**tokens.to(self.device)).last_hidden_state
        pooled = pooled_words(
            text, max_length=POOLED_TOKENS, truncation=True, padding="max_length", return_tensors="pt"
        )
        return {
            "embeds": states[:, cut:].contiguous(),
            "pooled": pooling(**pooled.to(self.device)).pooler_output,
        }

    def load(self) -> tuple[Any, Any, Any, Any]:
        words, pooled_words = (self.part(name, AutoTokenizer) for name in ("tokenizer", "tokenizer_2"))
        pooling = self.encoder("text_encoder_2", CLIPTextModel, dtype=torch.float32, rounded=None)
        return words, language_model(self, "text_encoder"), pooled_words, pooling


def template(*, picture: bool) -> tuple[str, str]:
    """What stands before and behind a prompt."""
    if picture:
        whole = Kandinsky5T2IPipeline(None, None, None, None, None, None, None).prompt_template
    else:
        whole = Kandinsky5T2VPipeline(None, None, None, None, None, None, None).prompt_template
    before, after = whole.replace(*SPELLED).split("{}")
    return before, after
