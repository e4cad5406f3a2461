"""Private names of diffusers' model classes that this package uses, in one place; `compat_*` have other libraries'.

Importing it imports those classes. `tests/house/test_compat.py` checks the names.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS
from diffusers.models.attention_dispatch import _AttentionBackendRegistry, dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import (
    HunyuanVideoCausalConv3d,
    HunyuanVideoMidBlock3D,
    HunyuanVideoUpsampleCausal3D,
)
from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import HunyuanVideo15Upsample
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.modeling_utils import get_parameter_dtype as computing_dtype
from diffusers.models.transformers import transformer_z_image
from diffusers.models.transformers.transformer_hunyuan_video import (
    HunyuanVideoAttnProcessor2_0 as HunyuanVideoAttention,
)
from diffusers.models.transformers.transformer_hunyuan_video15 import (
    HunyuanVideo15ByT5TextProjection as GlyphProjection,
)
from diffusers.models.transformers.transformer_kandinsky import Kandinsky5Attention
from diffusers.models.transformers.transformer_wan import WanAttention, WanTimeTextImageEmbedding
from torch import nn

__all__ = [
    "Attention",
    "DiagonalGaussianDistribution",
    "GlyphProjection",
    "HunyuanVideo15Upsample",
    "HunyuanVideoAttention",
    "HunyuanVideoCausalConv3d",
    "HunyuanVideoMidBlock3D",
    "HunyuanVideoUpsampleCausal3D",
    "Kandinsky5Attention",
    "WanAttention",
    "WanCausalConv3d",
    "WanTimeTextImageEmbedding",
    "apply_rotary_emb",
    "computing_dtype",
    "dispatch_attention_fn",
]

KEEP_SIZE: Mapping[str, Any] = {"_auto_resize": False}
"""Argument of `FluxKontextPipeline`: a control image keeps its size."""

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines [tokens, head_dim] of a rotary embedding."""


def decode_wan_frame(
    vae: AutoencoderKLWan, features: torch.Tensor, cache: list[torch.Tensor | None], *, first: bool
) -> torch.Tensor:
    """Pixels, not clamped, of one latent frame [1, C, 1, h, w] that has passed `post_quant_conv`.

    `cache` has an entry for each `WanCausalConv3d` of the decoder, and carries what later frames need.
    """
    return wan_pixels(vae, wan_patches(vae, features, cache, first=first))


def wan_patches(
    vae: AutoencoderKLWan, features: torch.Tensor, cache: list[torch.Tensor | None], *, first: bool
) -> torch.Tensor:
    """As `decode_wan_frame`, before Wan2.2's patches become pixels."""
    return vae.decoder(features, feat_cache=cache, feat_idx=[0], first_chunk=first)  # type: ignore[no-any-return]


def wan_pixels(vae: AutoencoderKLWan, patches: torch.Tensor) -> torch.Tensor:
    """Pixels of `wan_patches`."""
    patch = vae.config.patch_size
    return patches if patch is None else unpatchify(patches, patch_size=patch)


def causal_padding(layer: HunyuanVideoCausalConv3d) -> tuple[int, ...]:
    """How a causal convolution pads its input, as `torch.nn.functional.pad` takes it."""
    return layer.time_causal_padding  # type: ignore[no-any-return]


def float32_modules(model: nn.Module) -> tuple[set[str], set[str]]:
    """Parts of names whose parameters the class keeps in float32: whatever the precision, and if it says so."""
    always = getattr(model, "_keep_in_fp32_modules_strict", None)
    listed = getattr(model, "_keep_in_fp32_modules", None)
    return set(always or ()), set(listed or ())


def renamed_on_load(model: nn.Module, keys: Iterable[str]) -> dict[str, str]:
    """Keys of a file by the names that `model` has for them today; those of attention blocks were others once."""
    named: OrderedDict[str, str] = OrderedDict((key, key) for key in keys)
    model._fix_state_dict_keys_on_load(named)  # type: ignore[operator]
    return named


def next_sigmas(scheduler: FlowMatchEulerDiscreteScheduler, timestep: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise levels at the begin and the end of the step at `timestep`; the scheduler counts the step as done."""
    if scheduler.step_index is None:
        scheduler._init_step_index(timestep)
    scheduler._step_index += 1
    return scheduler.sigmas[scheduler.step_index - 1], scheduler.sigmas[scheduler.step_index]


def active_attention() -> str:
    """Name of the attention backend that transformers use now, where they were not given one of their own."""
    return _AttentionBackendRegistry.get_active_backend()[0].value


def repeated_blocks(model: nn.Module) -> tuple[str, ...]:
    """Names of the classes whose modules `compile_repeated_blocks` compiles; none for a model that has no such list."""
    return tuple(getattr(model, "_repeated_blocks", None) or ())


def with_first_block_cache(transformer: nn.Module) -> list[nn.Module]:
    """The blocks that FirstBlockCache is put into, in its order: the first decides, the last tells what to keep."""
    lists = (child for name, child in transformer.named_children() if name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS)
    return [block for each in lists if isinstance(each, nn.ModuleList) for block in each]


def forget_hooks(blocks: Iterable[nn.Module]) -> None:
    """Take away what diffusers leaves in modules whose hooks have been removed."""
    for block in blocks:
        vars(block).pop("_diffusers_hook", None)


def guidance_scale(pipeline: DiffusionPipeline) -> float:
    """The scale that a pipeline was called with."""
    return pipeline._guidance_scale  # type: ignore[no-any-return]


def pooled_rotation(
    transformer: nn.Module, rotation: Rotation, rows: int, columns: int, pooling: tuple[int, int, int]
) -> Rotation:
    """FramePack's rotary embedding of tokens [frames * rows * columns], averaged over `pooling` tokens."""
    return transformer._pad_rotary_emb(rotation, rows, columns, pooling)  # type: ignore[no-any-return,operator]


@contextlib.contextmanager
def unpadded_z_image() -> Iterator[None]:
    """Inside, Z-Image's transformer takes sequences of any length, where it pads them to multiples of 32 tokens."""
    multiple, transformer_z_image.SEQ_MULTI_OF = transformer_z_image.SEQ_MULTI_OF, 1
    try:
        yield
    finally:
        transformer_z_image.SEQ_MULTI_OF = multiple
