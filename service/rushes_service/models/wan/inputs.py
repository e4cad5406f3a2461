"""What conditions Wan besides text: latents beside the noise, image tokens before the text.

Wan's image and control models differ from its text model only in what the transformer is given. So one pipeline
runs them all, and a hook adds the rest to each call of the transformer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from rushes_service.models.conditioning import Conditioning
from rushes_service.runtime.compat_diffusers_models import WanAttention

LATENTS = "latent_condition"
"""Key of latents [1, C, T, h, w] that are given beside the noise at each step."""

IMAGE_TOKENS = "image_embeds"
"""Key of CLIP's tokens of the start image [1, 257, image_dim], or of a first and a last one [2, 257, image_dim]."""

PLACES = "places"
"""Key of the places in time of latent frames, int64 [T], where they are not 0 to T - 1."""

CLIP_TOKENS = 257
"""Of one image: 16 x 16 patches and the class token."""


@contextlib.contextmanager
def conditioned(transformer: nn.Module, conditioning: Conditioning) -> Iterator[None]:
    """Inside, each call of `transformer` also gets the latents and image tokens of `conditioning`."""
    latents, tokens = conditioning.get(LATENTS), conditioning.get(IMAGE_TOKENS)

    def add(
        _module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        noisy = inputs["hidden_states"]
        if latents is not None:
            inputs["hidden_states"] = torch.cat([noisy, latents.to(noisy)], dim=1)
        if tokens is not None:
            inputs["encoder_hidden_states_image"] = tokens.to(noisy)
        return args, inputs

    hook = transformer.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def placed(transformer: WanTransformer3DModel, places: torch.Tensor) -> Iterator[None]:
    """Inside, the rotary embedding places latent frames at `places`, int64 [T], instead of 0 to T - 1."""
    rope = transformer.rope

    def forward(hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        longest = int(places.max()) + 1
        shape = (*hidden_states.shape[:2], longest, *hidden_states.shape[3:])
        whole = type(rope).forward(rope, hidden_states.new_empty(1).expand(shape))
        return tuple(part.unflatten(1, (longest, -1))[:, places].flatten(1, 2) for part in whole)

    rope.forward = forward
    try:
        yield
    finally:
        del rope.forward


@contextlib.contextmanager
def first_tokens_as_image(transformer: WanTransformer3DModel) -> Iterator[None]:
    """Inside, the attention for image tokens gets the first 257 tokens, as in `FirstTokensAsImage`."""
    attentions = [block.attn2 for block in transformer.blocks]
    processors = [attention.processor for attention in attentions]
    for attention in attentions:
        attention.set_processor(FirstTokensAsImage())
    try:
        yield
    finally:
        for attention, processor in zip(attentions, processors, strict=True):
            attention.set_processor(processor)


class FirstTokensAsImage:
    """Cross-attention that takes the first 257 tokens for image tokens, and the rest for text.

    So the reference runs a Fun-Control model that is given no start image: the projections meant for CLIP's tokens
    see the beginning of the text, the text's own projections only what follows. A first and last frame model has 514
    image tokens; there the last image's are taken for text.
    """

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: Any = None,
    ) -> torch.Tensor:
        image, text = encoder_hidden_states[:, :CLIP_TOKENS], encoder_hidden_states[:, CLIP_TOKENS:]

        def split(tokens: torch.Tensor) -> torch.Tensor:
            return tokens.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        query = split(attn.norm_q(attn.to_q(hidden_states)))
        from_text = scaled_dot_product_attention(query, split(attn.norm_k(attn.to_k(text))), split(attn.to_v(text)))
        from_image = scaled_dot_product_attention(
            query, split(attn.norm_added_k(attn.add_k_proj(image))), split(attn.add_v_proj(image))
        )
        heads = from_text + from_image
        return attn.to_out[1](attn.to_out[0](heads.transpose(1, 2).flatten(2).type_as(hidden_states)))


@torch.no_grad()
def encoded(vae: AutoencoderKLWan, pixels: torch.Tensor) -> torch.Tensor:
    """Latents [1, 16, T, h, w] of `pixels` [3, frames, H, W] in -1..1: the mean of the posterior, scaled."""
    latents = vae.encode(pixels[None].to(vae.device, vae.dtype), return_dict=False)[0].mode()
    mean, std = statistics(vae, latents)
    return (latents - mean) * (1 / std)


def unscaled(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """Latents [1, C, T, h, w] in the VAE's own scale, device and dtype."""
    latents = latents.to(vae.device, vae.dtype)
    mean, std = statistics(vae, latents)
    return latents * std + mean


def statistics(vae: AutoencoderKLWan, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each latent channel, [1, C, 1, 1, 1], on the device and in the dtype of `like`."""
    mean, std = (
        torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std
