"""A tiny FLUX.1 Kontext model with random weights: real classes, no network, about 1.5 MB. See `tiny_parts`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

from rushes_service.models.tiny_parts import VELOCITY_STD, build_once, byte_tokenizer, image_vae, rescale

RECIPE = 1
"""Raised when a change here makes different weights."""

PROMPT_GAIN = 8.0
"""Makes the prompt show in the picture."""

T5_DIM, POOLED_DIM = 32, 32
CLIP_TOKENS = 77
AXES = (4, 6, 6)
"""Rotary dimensions of each head for picture, row and column."""


def build_tiny_flux(directory: Path, *, seed: int = 0) -> Path:
    """Write a complete `FluxKontextPipeline` directory to `directory` and return it; as `build_tiny_wan`.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    recipe = json.dumps({"recipe": RECIPE, "family": "flux1-kontext", "seed": seed})
    return build_once(directory, recipe, pipeline, seed=seed)


def pipeline() -> FluxKontextPipeline:
    """The tiny pipeline in float32 on the CPU."""
    words = clip_tokenizer()
    return FluxKontextPipeline(
        tokenizer=words,
        text_encoder=clip_encoder(words),
        tokenizer_2=byte_tokenizer(),
        text_encoder_2=t5_encoder(),
        transformer=transformer(),
        vae=image_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


def clip_tokenizer() -> CLIPTokenizer:
    """One token per UTF-8 byte, with CLIP's own marks for words' ends and the text's."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CLIP_TOKENS)


def clip_encoder(words: CLIPTokenizer) -> CLIPTextModel:
    """Two CLIP layers."""
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=POOLED_DIM,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CLIP_TOKENS,
        projection_dim=POOLED_DIM,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return CLIPTextModel(config).eval().requires_grad_(False)


def t5_encoder() -> T5EncoderModel:
    """Two T5 layers over the bytes of the prompt."""
    config = T5Config(
        vocab_size=264, d_model=T5_DIM, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return T5EncoderModel(config).eval().requires_grad_(False)


@torch.no_grad()
def transformer() -> FluxTransformer2DModel:
    """Two blocks of each kind, 48 wide, scaled so that the velocity it predicts is as large as the noise."""
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=sum(AXES),
        num_attention_heads=3,
        joint_attention_dim=T5_DIM,
        pooled_projection_dim=POOLED_DIM,
        guidance_embeds=True,
        axes_dims_rope=AXES,
    ).eval()
    model.requires_grad_(False)
    rescale(model.context_embedder, PROMPT_GAIN)
    tokens = 16
    velocity = model(
        hidden_states=torch.randn(1, tokens, 64),
        encoder_hidden_states=torch.randn(1, 16, T5_DIM),
        pooled_projections=torch.randn(1, POOLED_DIM),
        timestep=torch.tensor([0.5]),
        guidance=torch.tensor([2.5]),
        img_ids=torch.zeros(tokens, 3),
        txt_ids=torch.zeros(16, 3),
    ).sample
    rescale(model.proj_out, VELOCITY_STD / velocity.std())
    return model
