"""A model's configuration as far as the shapes of its weights tell it, by kind of model. Needs no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rushes.errors import ModelError

Config = dict[str, Any]
Derive = Callable[["Shapes", Mapping[str, Any]], Config]
"""What shapes tell, given what a published model of the kind has where they tell nothing (width of a head)."""


class Shapes:
    """Shapes of a file's tensors by name, without the prefix that all of them have."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.path = path
        self._shapes = shapes

    def has(self, *names: str) -> bool:
        """True if any of these tensors is there."""
        return any(name in self._shapes for name in names)

    def shape(self, *names: str) -> tuple[int, ...]:
        """Shape of the first of `names` that is there.

        Raises:
            ModelError: none is.
        """
        for name in names:
            if name in self._shapes:
                return self._shapes[name]
        raise ModelError(f"{self.path} lacks {names[0]}: the file is incomplete, or of another model")

    def rows(self, *names: str) -> int:
        """The first size of a tensor."""
        return self.shape(*names)[0]

    def columns(self, *names: str) -> int:
        """The second size of a tensor."""
        return self.shape(*names)[1]

    def count(self, pattern: str) -> int:
        """How many there are of what `pattern` numbers in its first group, from 0."""
        numbers = [int(match[1]) for name in self._shapes if (match := re.match(pattern, name))]
        return max(numbers, default=-1) + 1


def heads(width: int, size: int, path: Path) -> int:
    """How many heads of `size` make `width`.

    Raises:
        ModelError: it is no whole number of them.
    """
    if not size or width % size:
        raise ModelError(unpublished(path, "width", width))
    return width // size


def unpublished(path: Path, key: str, value: Any) -> str:
    """Says what to do about a model whose configuration cannot be told from its shapes."""
    return (
        f"{path} has {key} {value}, as no published model has, and shapes do not tell everything about it: put its "
        f"diffusers config.json beside it, as {path.with_suffix('.config.json').name}"
    )


def wan_transformer(s: Shapes, base: Mapping[str, Any]) -> Config:
    """Wan of any kind; channels tell text to video (16), image to video (36) and Fun-Control (48) apart."""
    width, channels, *patch = s.shape("patch_embedding.weight")
    image = ("img_emb.proj.0.weight", "condition_embedder.image_embedder.norm1.weight")
    added = ("blocks.0.cross_attn.k_img.weight", "blocks.0.attn2.add_k_proj.weight")
    place = ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed")
    return {
        "num_attention_heads": heads(width, base["attention_head_dim"], s.path),
        "in_channels": channels,
        "out_channels": s.rows("head.head.weight", "proj_out.weight") // math.prod(patch),
        "patch_size": patch,
        "num_layers": s.count(r"blocks\.(\d+)\."),
        "ffn_dim": s.rows("blocks.0.ffn.0.weight", "blocks.0.ffn.net.0.proj.weight"),
        "text_dim": s.columns("text_embedding.0.weight", "condition_embedder.text_embedder.linear_1.weight"),
        "freq_dim": s.columns("time_embedding.0.weight", "condition_embedder.time_embedder.linear_1.weight"),
        "cross_attn_norm": s.has("blocks.0.norm3.weight", "blocks.0.norm2.weight"),
        "image_dim": s.rows(*image) if s.has(*image) else None,
        "added_kv_proj_dim": s.columns(*added) if s.has(*added) else None,
        "pos_embed_seq_len": s.shape(*place)[1] if s.has(*place) else None,
    }


def hunyuan_transformer(s: Shapes, base: Mapping[str, Any]) -> Config:
    """HunyuanVideo and SkyReels in the names of their release."""
    width, channels, patch_t, patch, _ = s.shape("img_in.proj.weight")
    size = s.rows("double_blocks.0.img_attn_q_norm.weight")
    return {
        "num_attention_heads": heads(width, size, s.path),
        "attention_head_dim": size,
        "in_channels": channels,
        "out_channels": s.rows("final_layer.linear.weight") // (patch_t * patch**2),
        "patch_size": patch,
        "patch_size_t": patch_t,
        "num_layers": s.count(r"double_blocks\.(\d+)\."),
        "num_single_layers": s.count(r"single_blocks\.(\d+)\."),
        "num_refiner_layers": s.count(r"txt_in\.individual_token_refiner\.blocks\.(\d+)\."),
        "mlp_ratio": s.rows("double_blocks.0.img_mlp.fc1.weight") / width,
        "text_embed_dim": s.columns("txt_in.input_embedder.weight"),
        "pooled_projection_dim": s.columns("vector_in.in_layer.weight"),
        "guidance_embeds": s.has("guidance_in.mlp.0.weight"),
        "image_condition_type": "latent_concat" if channels == 2 * base["out_channels"] + 1 else None,
    }


def framepack_transformer(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """FramePack, whose release has diffusers' names."""
    width, channels, patch_t, patch, _ = s.shape("x_embedder.proj.weight")
    size = s.rows("transformer_blocks.0.attn.norm_q.weight")
    return {
        "num_attention_heads": heads(width, size, s.path),
        "attention_head_dim": size,
        "in_channels": channels,
        "out_channels": s.rows("proj_out.weight") // (patch_t * patch**2),
        "patch_size": patch,
        "patch_size_t": patch_t,
        "num_layers": s.count(r"transformer_blocks\.(\d+)\."),
        "num_single_layers": s.count(r"single_transformer_blocks\.(\d+)\."),
        "num_refiner_layers": s.count(r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)\."),
        "mlp_ratio": s.rows("transformer_blocks.0.ff.net.0.proj.weight") / width,
        "text_embed_dim": s.columns("context_embedder.proj_in.weight"),
        "pooled_projection_dim": s.columns("time_text_embed.text_embedder.linear_1.weight"),
        "guidance_embeds": s.has("time_text_embed.guidance_embedder.linear_1.weight"),
        "has_clean_x_embedder": s.has("clean_x_embedder.proj.weight"),
        "has_image_proj": s.has("image_projection.up.weight"),
        "image_proj_dim": s.columns("image_projection.up.weight"),
    }


def flux_transformer(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """FLUX in the names of its release."""
    width, channels = s.shape("img_in.weight")
    size = s.rows("double_blocks.0.img_attn.norm.query_norm.scale", "double_blocks.0.img_attn.norm.query_norm.weight")
    return {
        "num_attention_heads": heads(width, size, s.path),
        "attention_head_dim": size,
        "in_channels": channels,
        "num_layers": s.count(r"double_blocks\.(\d+)\."),
        "num_single_layers": s.count(r"single_blocks\.(\d+)\."),
        "joint_attention_dim": s.columns("txt_in.weight"),
        "pooled_projection_dim": s.columns("vector_in.in_layer.weight"),
        "guidance_embeds": s.has("guidance_in.in_layer.weight"),
    }


def wan_vae(s: Shapes, base: Mapping[str, Any]) -> Config:
    """Wan2.1's VAE, which Wan2.2's large models share."""
    return {
        "base_dim": s.rows("encoder.conv1.weight", "encoder.conv_in.weight") // base["dim_mult"][0],
        "z_dim": s.rows("conv2.weight", "post_quant_conv.weight"),
    }


def block_widths(s: Shapes, end: str) -> list[int]:
    """Channels of an encoder's levels in the names of diffusers or of latent diffusion; `end` is a convolution's."""
    levels = s.count(r"encoder\.down(?:_blocks)?\.(\d+)\.")
    return [
        s.rows(f"encoder.down_blocks.{level}.resnets.0.conv1.{end}", f"encoder.down.{level}.block.0.conv1.{end}")
        for level in range(levels)
    ]


def blocks_per_level(s: Shapes) -> int:
    """Residual blocks on one level of an encoder."""
    return s.count(r"encoder\.down(?:_blocks)?\.0\.(?:resnets|block)\.(\d+)\.")


def hunyuan_vae(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """HunyuanVideo's VAE, also FramePack's and SkyReels'."""
    return {
        "block_out_channels": block_widths(s, "conv.weight"),
        "layers_per_block": blocks_per_level(s),
        "latent_channels": s.columns("decoder.conv_in.conv.weight"),
    }


def image_vae(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """FLUX's VAE."""
    widths = block_widths(s, "weight")
    return {
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": blocks_per_level(s),
        "latent_channels": s.columns("decoder.conv_in.weight"),
        "use_quant_conv": s.has("quant_conv.weight"),
        "use_post_quant_conv": s.has("post_quant_conv.weight"),
    }


def llama(s: Shapes, base: Mapping[str, Any]) -> Config:
    """Llama's decoder."""
    vocabulary, width = s.shape("embed_tokens.weight")
    size = base.get("head_dim") or base["hidden_size"] // base["num_attention_heads"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": heads(s.rows("layers.0.self_attn.q_proj.weight"), size, s.path),
        "num_key_value_heads": heads(s.rows("layers.0.self_attn.k_proj.weight"), size, s.path),
        "intermediate_size": s.rows("layers.0.mlp.gate_proj.weight"),
        "num_hidden_layers": s.count(r"layers\.(\d+)\."),
    }


def clip_text(s: Shapes, base: Mapping[str, Any]) -> Config:
    """CLIP's text encoder."""
    vocabulary, width = s.shape("embeddings.token_embedding.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": heads(width, base["hidden_size"] // base["num_attention_heads"], s.path),
        "intermediate_size": s.rows("encoder.layers.0.mlp.fc1.weight"),
        "num_hidden_layers": s.count(r"encoder\.layers\.(\d+)\."),
        "max_position_embeddings": s.rows("embeddings.position_embedding.weight"),
    }


def t5(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """The encoders of T5 and UMT5."""
    vocabulary, width = s.shape("shared.weight", "token_embedding.weight", "encoder.embed_tokens.weight")
    first, second = "encoder.block.0.layer.0.SelfAttention", "encoder.block.0.layer.1.DenseReluDense"
    buckets, count = s.shape(f"{first}.relative_attention_bias.weight", "blocks.0.pos_embedding.embedding.weight")
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "num_heads": count,
        "d_kv": s.rows(f"{first}.q.weight", "blocks.0.attn.q.weight") // count,
        "d_ff": s.rows(f"{second}.wi_0.weight", "blocks.0.ffn.fc1.weight"),
        "num_layers": s.count(r"(?:encoder\.)?blocks?\.(\d+)\."),
        "relative_attention_num_buckets": buckets,
    }


def vision_tower(s: Shapes, base: Mapping[str, Any]) -> Config:
    """Image encoders: CLIP's, which has one token more than patches, and SigLIP's."""
    names = ("embeddings.patch_embedding.weight", "patch_embedding.weight")
    places = s.shape("embeddings.position_embedding.weight", "pos_embedding")
    width, _, patch, _ = s.shape(*names)
    side = math.isqrt(math.prod(places[:-1]) - s.has("embeddings.class_embedding", "cls_embedding"))
    fits = base.get("image_size", 0) // patch == side  # SigLIP's patches leave a margin out
    return {
        "hidden_size": width,
        "num_attention_heads": heads(width, base["hidden_size"] // base["num_attention_heads"], s.path),
        "intermediate_size": s.rows("encoder.layers.0.mlp.fc1.weight", "transformer.0.mlp.0.weight"),
        "num_hidden_layers": s.count(r"(?:encoder\.layers|transformer)\.(\d+)\."),
        "patch_size": patch,
        "image_size": base["image_size"] if fits else side * patch,
    }
