"""Keys of adapter files: which module, which tensor of it, in whose style."""

from __future__ import annotations

import re
from typing import NamedTuple

PARTS: tuple[tuple[str, str], ...] = (
    (r"lora_down(?:\.default)?\.weight", "down"),
    (r"lora_up(?:\.default)?\.weight", "up"),
    (r"lora_A(?:\.default)?\.weight", "down"),
    (r"lora_B(?:\.default)?\.weight", "up"),
    (r"lora\.down\.weight", "down"),
    (r"lora\.up\.weight", "up"),
    (r"lora_(?:B|up)(?:\.default)?\.bias", "up_bias"),
    (r"lora_mid\.weight", "tucker"),
    (r"hada_t[12]", "tucker"),
    (r"lokr_t[12]", "tucker"),
    (r"(hada_w[12]_[ab]|lokr_w[12](?:_[ab])?)(?:\.default)?", ""),
    (r"dora_scale", "magnitude"),
    (r"lora_magnitude_vector(?:\.default)?(?:\.weight)?", "magnitude"),
    (r"(?:diff|w_norm)", "diff"),
    (r"(?:diff_b|b_norm)", "diff_b"),
    (r"diff_m", "modulation"),
    (r"alpha", "alpha"),
)
"""Ends of keys and the part they are; a part named "" is what the end itself says."""

ENDS = tuple((re.compile(rf"(.+)\.(?:{end})"), part) for end, part in PARTS)

PREFIXES = (
    ("lora_unet_", "musubi"),
    ("lycoris_", "musubi"),
    ("base_model.model.", "peft"),
    ("diffusion_model.", "comfyui"),
    ("transformer.", "diffusers"),
)
"""How keys begin, and the name of the format that begins them so; anything else is "diffusers" without a prefix."""

WRAPPERS = re.compile(r"^module\.|_orig_mod[._]")
"""What `DistributedDataParallel` and `torch.compile` put into the names of what they wrap."""

TEXT_ENCODER = re.compile(r"(base_model\.model\.)?(lora_te\d?_|text_encoders?(_\d)?[._]|text_model[._]|te\d?_)")
"""How keys of a text encoder's LoRA begin."""


class Key(NamedTuple):
    """A key taken apart. `part` is "" for a key that is no adapter's."""

    name: str
    part: str
    style: str


def split(key: str) -> Key:
    """The module's name without prefix, the part of it, and the format's name."""
    key = unwrapped(key)
    name, part = key, ""
    for pattern, kind in ENDS:
        if match := pattern.fullmatch(key):
            name, part = match[1], kind or match[2]
            break
    style = "diffusers"
    for prefix, prefix_style in PREFIXES:
        if name.startswith(prefix):
            name, style = name[len(prefix) :], prefix_style
            if style != "peft":
                break
    return Key(name, part, style)


def unwrapped(key: str) -> str:
    """A key without what wrapping its model put into it."""
    return WRAPPERS.sub("", key)
