"""Keys of weight files: which module, which tensor of it, in whose style, for which expert.

One table of prefixes, one of wrappers and one of endings. Trainers and the tools around them put prefixes before a
module's name; FSDP, DDP, `torch.compile` and activation checkpointing put components of their own anywhere into it.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from rushes.wire.models import Expert

ADAPTER = r"(?:\.[^.]+)?"
"""An adapter's own name, which PEFT keeps in the keys of models with several: `lora_A.style.weight`."""

PARTS: tuple[tuple[str, str], ...] = (
    (rf"lora_(?:down|A){ADAPTER}\.weight", "down"),
    (rf"lora_(?:up|B){ADAPTER}\.weight", "up"),
    (r"lora_(?:down|A)", "down"),
    (r"lora_(?:up|B)", "up"),
    (r"lora(?:_linear_layer)?\.down\.weight", "down"),
    (r"lora(?:_linear_layer)?\.up\.weight", "up"),
    (rf"lora_(?:B|up){ADAPTER}\.bias", "up_bias"),
    (r"lora_mid\.weight", "tucker"),
    (r"hada_t[12]", "tucker"),
    (r"lokr_t[12]", "tucker"),
    (rf"(hada_w[12]_[ab]|lokr_w[12](?:_[ab])?){ADAPTER}", ""),
    (rf"(?:lora_magnitude_vector|magnitude){ADAPTER}(?:\.weight)?", "magnitude"),
    (r"dora_scale", "magnitude"),
    (r"(?:diff|w_norm)", "diff"),
    (r"(?:diff_b|b_norm)", "diff_b"),
    (r"diff_m", "modulation"),
    (r"(?:lora_|network_)?alpha", "alpha"),
)
"""Ends of keys and the part they are; a part named "" is what the end itself says."""

ENDS = tuple((re.compile(rf"(.+?)\.(?:{end})"), part) for end, part in PARTS)

WRAPPERS = (
    r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.",
    r"_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)_",
)
"""What wrapping a module puts into the names below it: as a component, or where underscores stand for the dots."""

WRAPPER = re.compile("|".join(WRAPPERS))

DOTTED: tuple[tuple[str, str], ...] = (
    ("base_model.model", "peft"),
    ("model.diffusion_model", "comfyui"),
    ("diffusion_model", "comfyui"),
    ("pipe.dit", "diffsynth"),
    ("pipe", "diffsynth"),
    ("dit", "diffsynth"),
    ("transformer", "diffusers"),
    ("unet", "diffusers"),
    ("denoiser", "diffusers"),
    ("model", "diffusers"),
    ("net", "diffusers"),
)
"""Components that keys begin with, and the format's name. Several may follow each other; the first names the format."""

FLAT: tuple[tuple[str, str], ...] = (
    (r"lora_unet__", "videox-fun"),
    (r"lora_unet_", "musubi"),
    (r"lycoris_", "musubi"),
    (r"lora_transformer_", "onetrainer"),
    (r"lora_(?:dit|denoiser|diffusion_model|model)_", "musubi"),
    (r"Hunyuan_video_(?:[A-Za-z0-9]+_)*?lora_", "tencent"),
)
"""Beginnings of keys whose module names have underscores for dots, and the format's name."""

FLAT_BEGINNINGS = tuple((re.compile(pattern), style) for pattern, style in FLAT)
FLAT_STYLES = frozenset(style for _, style in FLAT)

EXPERTS: dict[str, Expert] = {
    "transformer_1": "high",
    "transformer_2": "low",
    "dit2": "low",
    "high_noise_model": "high",
    "low_noise_model": "low",
    "high_noise": "high",
    "low_noise": "low",
}
"""Components that say which of Wan2.2's transformers is meant: ai-toolkit's, diffusers', DiffSynth's and Wan's own."""

FIRST_OF_TWO = ("transformer_2", "dit2")
"""Those beside which the plain prefix (`transformer.`, `dit.`) is the expert for much noise."""

TEXT_ENCODER = re.compile(
    r"(base_model\.model\.)?(lora_te\d?_|text_encoders?(_\d)?[._]|text_model[._]|te\d?_|conditioner\.)"
)
"""How keys of a text encoder's LoRA begin."""


TEXT = "text_encoder"
"""The first text encoder; others have a number behind it."""

TEXT_BEGINNINGS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"lora_te([1-9]?)_"), "musubi"),
    (re.compile(r"(?:base_model\.model\.)?text_encoder(?:_([2-9]))?\."), "diffusers"),
)
"""Beginnings of keys that say which text encoder is meant, by its number, and the format's name."""

REMEMBERED = 1 << 15
"""Keys of which the meaning is remembered: the next checkpoint of a run has the same ones."""


class Key(NamedTuple):
    """A key taken apart. `part` is "" for a key that is no adapter's.

    `expert` is the part of the model that the key names, None where it names none: a transformer of Wan2.2, or a text
    encoder (`text_encoder_2`).

    `longer` are names with more of the beginning, shortest first: `transformer.blocks.0` is `blocks.0` with a prefix,
    or what a converter made of `transformer_blocks.0`.
    """

    name: str
    part: str
    style: str
    expert: str | None = None
    longer: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that the module may have."""
        return (self.name, *self.longer)

    @property
    def text(self) -> bool:
        """True for a module of a text encoder that the key names."""
        return self.expert is not None and self.expert.startswith(TEXT)

    @property
    def flat(self) -> bool:
        """True for a name with underscores for dots."""
        return self.style in FLAT_STYLES


@functools.lru_cache(maxsize=REMEMBERED)
def split(key: str) -> Key:
    """The module's name without prefix, the part of it, the format's name and the expert."""
    key = unwrapped(key)
    name, part = key, ""
    for pattern, kind in ENDS:
        if match := pattern.fullmatch(key):
            name, part = match[1], kind or match[2]
            break
    for beginning, style in TEXT_BEGINNINGS:
        if match := beginning.match(name):
            number = match[1] or "1"
            encoder = TEXT if number == "1" else f"{TEXT}_{number}"
            return Key(name[match.end() :], part, style, encoder)
    rest, outer = without_expert(name, ".")
    for beginning, style in FLAT_BEGINNINGS:
        if match := beginning.match(rest):
            longer = (rest.removeprefix("lora_"),) if style == "onetrainer" else ()
            name, expert = without_expert(rest[match.end() :].lstrip("_"), "_")
            return Key(name, part, style, outer or expert, longer)
    return without_prefixes(name.replace("$$", "."), part)


def without_prefixes(name: str, part: str) -> Key:
    """A dotted name without what `DOTTED` and `EXPERTS` list; the first of those names the format."""
    style: str | None = None
    expert: Expert | None = None
    longer: list[str] = []
    while True:
        rest, named = without_expert(name, ".")
        prefix = next((item for item in DOTTED if name.startswith(f"{item[0]}.")), None)
        if named is None and prefix is None:
            return Key(name, part, style or "diffusers", expert, tuple(longer))
        if style is not None:
            longer.insert(0, name)
        if prefix is not None:
            rest, style = name[len(prefix[0]) + 1 :], style or prefix[1]
        name, expert = rest, expert or named


def without_expert(name: str, separator: str) -> tuple[str, Expert | None]:
    """A name without the expert that it begins with."""
    for component, expert in EXPERTS.items():
        if name.startswith(component + separator):
            return name[len(component) + 1 :], expert
    return name, None


def unwrapped(key: str) -> str:
    """A key without what wrapping its model put into it."""
    return WRAPPER.sub("", key)
