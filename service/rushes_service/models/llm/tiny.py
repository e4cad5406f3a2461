"""Tiny language models over the bytes of a prompt, with tokenizers that cut a system prompt into its published count.

The real encoders cut off a fixed number of tokens before the text; the tokenizers made here need that very number for
the very same words, and one token for every other byte.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
)

TEXT_DIM = 32
END, PAD = "<|im_end|>", "<|endoftext|>"
SPECIALS = (PAD, END, "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
WORDS = ("system", "user", "assistant", "\n", "<think>", "</think>")
SINGLE_TOKENS = re.compile(rf"({'|'.join(re.escape(word) for word in (*SPECIALS, *WORDS))})")
"""What is one token to the real tokenizers too."""

MISTRAL_LAYERS, MISTRAL_WIDTH = 31, 16
"""FLUX.2 dev takes hidden state 30 and two before it."""

QWEN3_VL_LAYERS, QWEN3_VL_WIDTH = 36, 16
"""Krea 2 takes hidden state 35 and eleven before it."""

MISTRAL_SPECIALS = ("<pad>", "</s>", "<s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "[IMG]")

MISTRAL_TEMPLATE = (
    "<s>{% for message in messages %}{% if message.role == 'system' %}[SYSTEM_PROMPT]{{ message.content[0].text }}"
    "[/SYSTEM_PROMPT]{% else %}[INST]{{ message.content[0].text }}[/INST]{% endif %}{% endfor %}"
)
"""Mistral's, as far as a system message and words of a user need it."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Qwen's, as far as a single message of a user needs it."""


def pieces(before: str, count: int) -> list[str]:
    """A template's text before the prompt, cut into `count` pieces: its longest part; the others are one each."""
    parts = [part for part in SINGLE_TOKENS.split(before) if part]
    longest = max(parts, key=len)
    cuts = count - (len(parts) - 1)
    size = len(longest) // cuts
    # All of one length but the last: the tokenizer takes the longest piece that fits, and must find each of these.
    ends = [*range(0, cuts * size, size), len(longest)]
    return [longest[start:stop] for start, stop in pairwise(ends)]


def qwen_tokenizer(*cut: tuple[str, int], max_length: int = 2048) -> PreTrainedTokenizerFast:
    """One token for each of Qwen's special ones, one for every other byte.

    Args:
        cut: texts before prompts, and of how many tokens each is to be.
    """
    words = [*WORDS, *(piece for before, count in cut for piece in pieces(before, count))]
    found = byte_level(SPECIALS, words, max_length)
    found.chat_template = CHAT_TEMPLATE
    return found


def byte_level(specials: Sequence[str], words: Sequence[str] = (), max_length: int = 2048) -> PreTrainedTokenizerFast:
    """One token for each of `specials` (padding and end first) and `words`, one for every other byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in dict.fromkeys(words)])
    pad, end = specials[:2]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, eos_token=end, model_max_length=max_length, padding_side="right"
    )


def qwen_vl(words: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """Two layers of Qwen2.5-VL, and two of its eyes."""
    token = words.convert_tokens_to_ids
    text = {
        "vocab_size": len(words),
        "hidden_size": TEXT_DIM,
        "intermediate_size": 2 * TEXT_DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
        "bos_token_id": token(PAD),
        "eos_token_id": token(END),
    }
    eyes = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": TEXT_DIM,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=eyes,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval().requires_grad_(False)


def qwen3(words: PreTrainedTokenizerFast, layers: int = 3, width: int = TEXT_DIM) -> Qwen3Model:
    """A few layers of Qwen3."""
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
    )
    return Qwen3Model(config).eval().requires_grad_(False)


def qwen3_vl(words: PreTrainedTokenizerFast) -> Qwen3VLModel:
    """As many layers of Qwen3-VL as Krea 2 reads, and two of its eyes."""
    token = words.convert_tokens_to_ids
    text = {
        "vocab_size": len(words),
        "hidden_size": QWEN3_VL_WIDTH,
        "intermediate_size": QWEN3_VL_WIDTH,
        "num_hidden_layers": QWEN3_VL_LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
        "bos_token_id": token(PAD),
        "eos_token_id": token(END),
    }
    eyes = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": QWEN3_VL_WIDTH,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=eyes,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    return Qwen3VLModel(config).eval().requires_grad_(False)


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of Mistral's special ones, one for every other byte."""
    words = byte_level(MISTRAL_SPECIALS)
    words.chat_template = MISTRAL_TEMPLATE
    return words


def mistral(words: PreTrainedTokenizerFast) -> Mistral3ForConditionalGeneration:
    """As many layers of Mistral as FLUX.2 dev reads, and two of its eyes."""
    text = {
        "model_type": "mistral",
        "vocab_size": len(words),
        "hidden_size": MISTRAL_WIDTH,
        "intermediate_size": 2 * MISTRAL_WIDTH,
        "num_hidden_layers": MISTRAL_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": MISTRAL_WIDTH // 4,
        "tie_word_embeddings": False,
    }
    eyes = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 8,
        "image_size": 56,
        "patch_size": 14,
    }
    config = Mistral3Config(
        text_config=text,
        vision_config=eyes,
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=False,
    )
    return Mistral3ForConditionalGeneration(config).eval().requires_grad_(False)
