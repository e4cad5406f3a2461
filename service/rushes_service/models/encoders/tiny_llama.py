"""Tiny text encoders for HunyuanVideo and its relatives: Llama, Llava and CLIP over the bytes of a prompt.

The real pipelines put a system prompt before the text and cut off a fixed number of tokens again, so the tokenizers
made here cut that very prompt into that very number of pieces; everything else is one token per byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

TEXT_DIM = 32
POOLED_DIM = 16
CLIP_TOKENS = 77

BEGIN, END, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<pad>"
SINGLE_TOKENS = re.compile(r"(<\|\w+\|>|<image>|system|user|assistant|\n\n)")
"""Parts of the pipelines' prompt templates that are one token to the real tokenizers too."""

PICTURE = 48
PATCH = 2
"""Pixels; (48 / 2) squared is the 576 tokens that the real vision tower makes of a picture."""


def byte_tokenizer(pieces: list[str], max_length: int, *, end: bool = False) -> PreTrainedTokenizerFast:
    """One token for each of `pieces`, one for every other byte; a begin token before and, with `end`, one after it."""
    specials = [PAD, END, BEGIN]  # CLIP takes an end token of 2 for a sign of older weights
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(specials + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in dict.fromkeys(pieces)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}" if end else f"{BEGIN} $A",
        special_tokens=[(BEGIN, vocabulary[BEGIN]), (END, vocabulary[END])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BEGIN, eos_token=END, model_max_length=max_length
    )


def template_pieces(template: Mapping[str, Any]) -> list[str]:
    """A pipeline's prompt template cut so that, with the begin token, `crop_start` tokens stand before the text."""
    before, after = template["template"].split("{}")
    parts = [part for part in SINGLE_TOKENS.split(before) if part]
    longest = max(parts, key=len)
    count = template["crop_start"] - 1 - (len(parts) - 1)
    # All of one length but the last: the tokenizer takes the longest piece that fits, and must find each of these.
    size = len(longest) // count
    ends = [*range(0, count * size, size), len(longest)]
    cut = [longest[start:stop] for start, stop in pairwise(ends)]
    place = parts.index(longest)
    return [*parts[:place], *cut, *parts[place + 1 :], *(part for part in SINGLE_TOKENS.split(after) if part)]


def llama_tokenizer(template: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """For `LlamaModel` or Llava, and one pipeline's template."""
    return byte_tokenizer(template_pieces(template), 1024)


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """For `CLIPTextModel`."""
    return byte_tokenizer([], CLIP_TOKENS, end=True)


def llama_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Four layers, of which the pipelines skip the last two."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_DIM,
        intermediate_size=2 * TEXT_DIM,
        num_hidden_layers=4,
        num_attention_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def llama(tokenizer: PreTrainedTokenizerFast) -> LlamaModel:
    """The text encoder of text-to-video models."""
    return LlamaModel(llama_config(tokenizer)).eval().requires_grad_(False)


def llava(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The encoder of text and picture of image-to-video models."""
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=PICTURE,
        patch_size=PATCH,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=llama_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaForConditionalGeneration(config).eval().requires_grad_(False)


def image_processor() -> CLIPImageProcessor:
    """Brings a picture to the size that `llava` takes."""
    size = {"height": PICTURE, "width": PICTURE}
    return CLIPImageProcessor(size={"shortest_edge": PICTURE}, crop_size=size)


def clip(tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
    """The encoder of the pooled embedding."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=POOLED_DIM,
        intermediate_size=2 * POOLED_DIM,
        projection_dim=POOLED_DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config).eval().requires_grad_(False)
