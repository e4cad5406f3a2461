"""What a weight file looks like, told from the names and shapes in it. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rushes.errors import ModelError
from rushes_service.models.loading.files.headers import Header


@dataclass(frozen=True)
class FileKind:
    """One kind of file. `signs` are names of tensors, or their ends, each of which is found in no other kind."""

    name: str
    title: str
    flag: str
    signs: tuple[str, ...]


FILE_KINDS = (
    FileKind("framepack-transformer", "a FramePack transformer", "--dit", ("clean_x_embedder.proj.weight",)),
    FileKind(
        "hunyuan-transformer",
        "a HunyuanVideo or SkyReels transformer",
        "--dit",
        ("double_blocks.0.img_attn_qkv.weight", "token_refiner.refiner_blocks.0.attn.to_q.weight"),
    ),
    FileKind(
        "flux-transformer",
        "a FLUX transformer",
        "--dit",
        ("double_blocks.0.img_attn.qkv.weight", "single_transformer_blocks.0.attn.to_q.weight"),
    ),
    FileKind(
        "wan-transformer",
        "a Wan transformer",
        "--dit",
        ("blocks.0.cross_attn.norm_k.weight", "blocks.0.attn2.norm_k.weight"),
    ),
    FileKind(
        "wan-vae",
        "Wan's VAE",
        "--vae",
        ("decoder.middle.0.residual.0.gamma", "decoder.mid_block.resnets.0.norm1.gamma"),
    ),
    FileKind("hunyuan-vae", "HunyuanVideo's VAE", "--vae", ("decoder.conv_in.conv.weight",)),
    FileKind("image-vae", "the VAE of an image model", "--vae", ("decoder.conv_in.weight",)),
    FileKind(
        "umt5",
        "the text encoder UMT5",
        "--t5",
        ("blocks.0.pos_embedding.embedding.weight", "block.1.layer.0.SelfAttention.relative_attention_bias.weight"),
    ),
    FileKind("t5", "the text encoder T5", "--text_encoder1", ("block.0.layer.0.SelfAttention.q.weight",)),
    FileKind("llava", "Llava, a text encoder that sees pictures", "--text_encoder1", ("projector.linear_1.weight",)),
    FileKind("llama", "the text encoder Llama", "--text_encoder1", ("layers.0.mlp.gate_proj.weight",)),
    FileKind("clip-vision", "CLIP's image encoder", "--clip", ("cls_embedding", "embeddings.class_embedding")),
    FileKind("clip-text", "CLIP's text encoder", "--text_encoder2", ("embeddings.token_embedding.weight",)),
    FileKind("siglip", "the image encoder SigLIP", "--image_encoder", ("embeddings.patch_embedding.bias",)),
)
"""Kinds of files, those before others whose signs they may share."""

TITLES = {look.name: look.title for look in FILE_KINDS}
WAN_KINDS = {16: "text to video", 36: "image to video", 48: "Fun-Control", 52: "Fun-Control with a reference image"}
LORA_MARKS = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".hada_w1_", ".lokr_w")


def file_kinds_of(header: Header) -> list[FileKind]:
    """What a file may be, the likeliest first; a file that holds several models is all of them."""
    found: dict[str, FileKind] = {}
    for look in FILE_KINDS:
        if look.flag not in found and any(at_a_dot(name, look.signs) for name in header.entries):
            found[look.flag] = look
    return list(found.values())


def at_a_dot(name: str, signs: Iterable[str]) -> bool:
    """True if one of `signs` is the whole of `name` or all that follows a dot."""
    return any(name == sign or name.endswith("." + sign) for sign in signs)


def described(header: Header) -> str:
    """What a file is, for people."""
    if any(mark in name for name in header.entries for mark in LORA_MARKS):
        return "a LoRA, and no base model"
    found = file_kinds_of(header)
    if not found:
        return (
            f"no model that Rushes knows ({len(header.entries)} tensors: {', '.join(sorted(header.entries)[:3])}, ...)"
        )
    title = found[0].title
    channels = latent_channels(header)
    if found[0].name == "wan-transformer" and channels in WAN_KINDS:
        return f"{title} ({WAN_KINDS[channels]})"
    return title


def latent_channels(header: Header) -> int | None:
    """Channels that a transformer takes, of those whose first layer is a convolution."""
    for name, entry in header.entries.items():
        if at_a_dot(name, ("patch_embedding.weight", "img_in.proj.weight", "x_embedder.proj.weight")):
            return entry.shape[1] if len(entry.shape) == 5 else None
    return None


def check_file_kind(header: Header, wanted: Iterable[str], flag: str) -> None:
    """Raise `ModelError` unless a file looks like one of `wanted`.

    Args:
        flag: the one that the file was given by.
    """
    names = list(wanted)
    found = file_kinds_of(header)
    if any(look.name in names for look in found):
        return
    needed = " or ".join(TITLES[name] for name in names)
    message = f"{flag} {header.path}: this is {described(header)}; {flag} needs {needed}"
    if found and found[0].flag != flag:
        message += f". Give this file with {found[0].flag}, if the family takes it"
    raise ModelError(message)
