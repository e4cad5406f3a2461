"""HunyuanVideo 1.5's transformer: diffusers' modules and weights, with attention that needs no mask.

diffusers masks padded tokens by a matrix of all pairs of tokens, which grows with the square of the clip (12 GB at 720p
and 121 frames). Here nothing is padded, so there is no mask, and fast kernels of attention can be used.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import HunyuanVideo15Transformer3DModel
from diffusers.configuration_utils import register_to_config
from torch import nn

from rushes_service.runtime.compat_diffusers_models import (
    Attention,
    GlyphProjection,
    apply_rotary_emb,
    computing_dtype,
    dispatch_attention_fn,
)

GLYPH_HIDDEN_DIM = 2048
"""Width inside the projection of glyph embeddings, which diffusers takes for granted; tiny models have less."""


class HunyuanVideo15Transformer(HunyuanVideo15Transformer3DModel):
    """diffusers' model for conditions without padding: every token of every condition counts."""

    @register_to_config
    def __init__(
        self,
        in_channels: int = 65,
        out_channels: int = 32,
        num_attention_heads: int = 16,
        attention_head_dim: int = 128,
        num_layers: int = 54,
        num_refiner_layers: int = 2,
        mlp_ratio: float = 4.0,
        patch_size: int = 1,
        patch_size_t: int = 1,
        qk_norm: str = "rms_norm",
        text_embed_dim: int = 3584,
        text_embed_2_dim: int = 1472,
        image_embed_dim: int = 1152,
        rope_theta: float = 256.0,
        rope_axes_dim: tuple[int, ...] = (16, 56, 56),
        target_size: int = 640,
        task_type: str = "i2v",
        use_meanflow: bool = False,
        glyph_hidden_dim: int = GLYPH_HIDDEN_DIM,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        del given["glyph_hidden_dim"]
        super().__init__(**given)
        if glyph_hidden_dim != GLYPH_HIDDEN_DIM:
            width = num_attention_heads * attention_head_dim
            self.context_embedder_2 = GlyphProjection(text_embed_2_dim, glyph_hidden_dim, width)
        for block in self.transformer_blocks:
            block.attn.set_processor(UnmaskedAttention())
        self.time_embed.timestep_embedder.register_forward_pre_hook(in_own_precision)


def in_own_precision(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Hook of an embedding of timesteps, which are not rounded before: their waves in its precision.

    That is the one it computes in: its weights may be kept in float8.
    """
    waves, *others = args
    return (waves.to(computing_dtype(module)), *others)


class UnmaskedAttention:
    """Joint attention of video and condition tokens, all of which count."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        def split(tokens: torch.Tensor) -> torch.Tensor:
            return tokens.unflatten(2, (attn.heads, -1))

        video = hidden_states.shape[1]
        query, key = (
            apply_rotary_emb(norm(split(layer(hidden_states))), image_rotary_emb, sequence_dim=1)
            for norm, layer in ((attn.norm_q, attn.to_q), (attn.norm_k, attn.to_k))
        )
        query = torch.cat([query, attn.norm_added_q(split(attn.add_q_proj(encoder_hidden_states)))], dim=1)
        key = torch.cat([key, attn.norm_added_k(split(attn.add_k_proj(encoder_hidden_states)))], dim=1)
        value = split(torch.cat([attn.to_v(hidden_states), attn.add_v_proj(encoder_hidden_states)], dim=1))
        mixed = dispatch_attention_fn(query, key, value, backend=self._attention_backend)
        mixed = mixed.flatten(2).to(query.dtype)
        return attn.to_out[1](attn.to_out[0](mixed[:, :video])), attn.to_add_out(mixed[:, video:])
