"""Which model family a file is for: what its header says, else what its keys look like.

Some families share names and even widths (FLUX.1 and HunyuanVideo), so that a file of one fits the other and makes
nonsense of it.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rushes_service.lora.reading.keys import REMEMBERED, TEXT_ENCODER, split

Shapes = Mapping[str, tuple[int, ...]]

FLUX, HUNYUAN, FRAMEPACK, WAN = "flux1", "hunyuan-video", "framepack", "wan"
QWEN, Z_IMAGE, FLUX2, KREA2, KANDINSKY = "qwen-image", "z-image", "flux2", "krea2", "kandinsky5"
LTX2 = "ltx-2"

STATED: tuple[tuple[str, str], ...] = (
    (r"krea[-_ ]?2", KREA2),
    (r"kandinsky[-_ ]?5", KANDINSKY),
    (r"skyreels[-_ ]?v?1", HUNYUAN),
    (r"frame[-_ ]?pack", FRAMEPACK),
    (r"hunyuan[-_ ]?video[-_ ]?v?1[-_. ]?5", "hunyuan-video-1.5"),
    (r"hunyuan[-_ ]?(?:image|dit)", "hunyuan-image"),
    (r"hunyuan[-_ ]?video", HUNYUAN),
    (r"chroma", "chroma"),
    (r"flux[-_. ]?2|klein", FLUX2),
    (r"flux", FLUX),
    (r"qwen[-_ ]?image", QWEN),
    (r"(?:^|[^a-z])wan(?:[^a-z]|$)|skyreels[-_ ]?v?2", WAN),
    (r"ltx[-_. ]?2(?!b)", LTX2),
    (r"ltx", "ltx-video"),
    (r"cogvideo", "cogvideox"),
    (r"z[-_ ]?image", Z_IMAGE),
    (r"stable[-_ ]?diffusion[-_ ]?v?3|(?:^|[^a-z])sd[-_ ]?v?3", "stable-diffusion-3"),
    (r"stable[-_ ]?diffusion[-_ ]?xl|sdxl|(?:^|[^a-z])sd[-_ ]?xl", "stable-diffusion-xl"),
    (r"stable[-_ ]?diffusion[-_ ]?v?[12]|(?:^|[^a-z])sd[-_ ]?v?[12]", "stable-diffusion-1"),
    (r"stable[-_ ]?diffusion|(?:^|[^a-z])sd[-_ ]?v", "stable-diffusion"),
    (r"(lumina|hidream|kandinsky|cosmos|mochi|pixart|sana|aura[-_ ]?flow|omnigen|ideogram|krea|anima|kolors)", ""),
)
"""Words of headers, in lower case, and the family that they name; "" is the word itself. The first counts."""

STATING = ("modelspec.architecture", "ss_base_model_version", "base_model_version", "base_model", "architecture")
"""Entries of headers that name a model family."""

CONFIG_ENTRY = "base_model_name_or_path"
"""The entry of PEFT's configuration that names the base model, by its hub id or its path."""

SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)[._]", ("stable-diffusion",)),
    (r"(text|visual)_transformer_blocks[._]\d+[._]", (KANDINSKY,)),
    (r"txtfusion|text_fusion|transformer_blocks[._]\d+[._](attn[._]to_gate|ff[._](gate|up|down)(?![a-z_]))", (KREA2,)),
    (
        r"(^|[._])(?<!single_)(?<!double_)blocks[._]\d+[._](attn[._](w[qkvo]|gate)|mlp[._](gate|up|down))(?![a-z])",
        (KREA2,),
    ),
    (r"(^|[._])(?<!single_)(?<!double_)(?<!refiner[._])blocks[._]\d+[._](self_attn|cross_attn|ffn|modulation)", (WAN,)),
    (r"(^|\.)blocks\.\d+\.(attn[12]|ffn)", (WAN,)),
    (r"individual_token_refiner|(img|txt)_mod[._]linear|(img|txt)_mlp[._]fc[12]|modulation[._]linear", (HUNYUAN,)),
    (r"double_blocks\.\d+\.(img|txt)_attn_(qkv|proj|q_norm|k_norm)", (HUNYUAN,)),
    (r"double_blocks_\d+_(img|txt)_mod_lin(_|\.|$)", (FLUX,)),
    (r"double_blocks_\d+_(img|txt)_mlp_[02]", (FLUX, FLUX2)),
    (r"single_blocks_\d+_(modulation_lin(_|\.|$)|norm_)", (FLUX,)),
    (r"(double|single)_stream_modulation|ff(_context)?[._]linear_(in|out)|to_qkv_mlp_proj", (FLUX2,)),
    (r"(double|single)_blocks[._]\d+", (FLUX, FLUX2, HUNYUAN)),  # ComfyUI has FLUX's inner names for both
    (r"clean_x_embedder|image_projection", (FRAMEPACK,)),
    (r"transformer_blocks[._]\d+[._](img|txt)_(mlp|mod)", (QWEN,)),
    (r"^lora_unet_transformer_blocks_\d+_attn(?!\d)", (FRAMEPACK, QWEN, KREA2)),
    (r"^lora_unet_(single_)?transformer_blocks_\d+_(attn|ff|norm|proj)(?!\d)", (FRAMEPACK,)),
    (r"token_refiner", (HUNYUAN, FRAMEPACK)),
    (r"transformer_blocks[._]\d+[._](audio_|audio_to_video|video_to_audio)", (LTX2,)),
    (r"transformer_blocks[._]\d+[._]attn[12]", ("ltx-video", LTX2, "cogvideox")),
    (r"(^|[._])transformer_blocks[._]\d+[._]attn[._]", (FLUX, FLUX2, HUNYUAN, FRAMEPACK, QWEN, KREA2)),
    (r"(^|[._])(single_)?transformer_blocks[._]\d+[._]", (FLUX, HUNYUAN, FRAMEPACK)),
    (r"(^|[._])(layers|(noise|context)_refiner)[._]\d+[._](attention|feed_forward)", (Z_IMAGE,)),
)
"""What gives a family away in a key. The first sign that is found counts; several families share some names."""

DEPTHS = {FLUX: (19, 38), HUNYUAN: (20, 40), FRAMEPACK: (20, 40), QWEN: (60, 0), FLUX2: (8, 48), KREA2: (28, 0)}
"""Double and single blocks of the released models: FLUX and HunyuanVideo share names and widths, but not depth."""

DOUBLE = re.compile(r"(?:double_blocks|(?<!single_)transformer_blocks)[._](\d+)[._]")
SINGLE = re.compile(r"(?:single_blocks|single_transformer_blocks)[._](\d+)[._]")

BLOCKS = re.compile(r"(double|single)_blocks[._]")
SIZED = re.compile(
    r"(?:(?:img|txt)_mlp[._][02]|single_blocks[._]\d+[._]linear1)\.(lora_up\.weight|lora_B\.weight|weight|diff)$"
)
"""Keys whose shape tells FLUX.2 from FLUX.1, and what they end in."""

DOWN_OF = {"lora_up.weight": "lora_down.weight", "lora_B.weight": "lora_A.weight"}
"""Ends of keys, and of those that hold the other half."""

GATED, PLAIN = (Fraction(6), Fraction(1, 3), Fraction(9)), (Fraction(4), Fraction(1, 4), Fraction(7))
"""Rows by columns of these modules in FLUX.2, and in FLUX.1 and HunyuanVideo."""

SAME_FILES = {
    "skyreels-v1": (HUNYUAN,),
    FRAMEPACK: (FRAMEPACK, HUNYUAN),
    "stable-diffusion-1": ("stable-diffusion-1", "stable-diffusion"),
    "stable-diffusion-xl": ("stable-diffusion-xl", "stable-diffusion"),
}
"""Families whose files are those of others as well: SkyReels V1 and FramePack are HunyuanVideo, trained on. Keys
tell no Stable Diffusion from another that has a UNet."""

SAME_NAMES = {"hunyuan-video-1.5": (HUNYUAN,)}
"""Families whose names look like another's."""

KNOWN = {label for _, label in STATED if label} | {label for _, labels in SIGNS for label in labels} | set(SAME_FILES)
"""Every family that a file may be told to be of; that of a model is the longest that its name begins with."""

SIGNED = {label for _, labels in SIGNS for label in labels} | {
    "hunyuan-video-1.5",
    "skyreels-v1",
    "stable-diffusion-1",
    "stable-diffusion-xl",
}
"""Families that keys are told by; of a model of another one, keys alone do not say that a file is not for it."""

WIDTHS = {1536: "Wan 1.3B", 5120: "Wan 14B", 3072: "HunyuanVideo, FramePack, FLUX.1 and Wan 5B"}
"""Width of the released models' blocks."""


@dataclass(frozen=True)
class Guess:
    """Families that most keys look like, and how many do."""

    labels: tuple[str, ...]
    count: int
    total: int

    def __str__(self) -> str:
        return f"{' or '.join(self.labels)}: {self.count} of {self.total} keys"

    def fits(self, architecture: str) -> bool:
        """True if a model of `architecture` may well have such keys."""
        own = family_label(architecture)
        return fits(self.labels, architecture) or any(label in SAME_NAMES.get(own, ()) for label in self.labels)


@dataclass(frozen=True)
class Stated:
    """The family that a file's header names, and where it does."""

    label: str
    entry: str
    value: str

    def __str__(self) -> str:
        return f"{self.label} ({self.entry} in its header is {self.value!r})"

    def fits(self, architecture: str) -> bool:
        """True if the header speaks of the family of `architecture`."""
        return fits((self.label,), architecture)


def fits(labels: tuple[str, ...], architecture: str) -> bool:
    """True if `architecture` reads files of one of these families."""
    own = family_label(architecture)
    return any(label in SAME_FILES.get(own, (own,)) for label in labels)


def family_label(architecture: str) -> str:
    """The family that a model belongs to."""
    return max((name for name in KNOWN if architecture.startswith(name)), key=len, default=architecture)


def another_family(shapes: Shapes, metadata: Mapping[str, str], architecture: str) -> Stated | Guess | None:
    """The family that a file is for, if it is not that of `architecture`; a guess counts if most keys speak for it."""
    found = family_of(shapes, metadata)
    if found is None or found.fits(architecture):
        return None
    if isinstance(found, Stated):
        return found
    return found if family_label(architecture) in SIGNED and found.count * 2 > found.total else None


def family_of(shapes: Shapes, metadata: Mapping[str, str]) -> Stated | Guess | None:
    """The family that a file's header names, else the one that most of its keys look like."""
    return stated_family(metadata) or guess_family(shapes)


def stated_family(metadata: Mapping[str, str]) -> Stated | None:
    """The family that a header names; None if it names none, or none that is known.

    Raises nothing: entries may hold anything.
    """
    for entry, value in stating(metadata):
        # Older versions of ai-toolkit called every model that they did not know so.
        if value == "sd_1.5" and "ai-toolkit" in metadata.get("software", ""):
            continue
        for pattern, label in STATED:
            if match := re.search(pattern, value.lower()):
                return Stated(label or match[1], entry, value)
    return None


def stating(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Entries of a header that may name a family, and what they say."""
    yield from ((entry, metadata[entry]) for entry in STATING if entry in metadata)
    for entry, text in metadata.items():
        if CONFIG_ENTRY not in text:
            continue
        try:
            config: Any = json.loads(text.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            continue
        for key, value in config.items() if isinstance(config, dict) else ():
            if key.endswith(CONFIG_ENTRY) and isinstance(value, str):
                # Directories above a model may be called anything.
                yield f"{entry}, {key}", "/".join(value.rstrip("/").split("/")[-1:])


def guess_family(shapes: Shapes) -> Guess | None:
    """The family that most keys look like, or None.

    Args:
        shapes: shape of each tensor, by key.
    """
    shapes = {key: shape for key, shape in shapes.items() if not TEXT_ENCODER.match(key)}
    sole: Counter[str] = Counter()
    votes: Counter[str] = Counter()
    gates = has_gates(shapes)
    for key in shapes:
        labels = labels_of(key)
        if gates and FLUX in labels and BLOCKS.search(key):
            labels = (FLUX2,)
        elif gates is False:
            labels = tuple(label for label in labels if label != FLUX2)
        votes.update(labels)
        if len(labels) == 1:
            sole.update(labels)
    if not votes:
        return None
    best = max(votes, key=lambda label: (sole[label], votes[label]))
    rivals = [label for label in votes if (sole[label], votes[label]) == (sole[best], votes[best])]
    if len(rivals) > 1:
        rivals = [label for label in rivals if deep_enough(label, shapes)] or rivals
    return Guess(tuple(rivals), votes[best], len(shapes))


@functools.lru_cache(maxsize=REMEMBERED)
def labels_of(key: str) -> tuple[str, ...]:
    """Families that have such a key, by the first of the signs that is in it."""
    parts = split(key)
    # OneTrainer's `lora_transformer_` before `blocks` is no `transformer_blocks`.
    name = parts.name if parts.style == "onetrainer" else key
    return next((labels for sign, labels in SIGNS if re.search(sign, name)), ())


def has_gates(shapes: Shapes) -> bool | None:
    """True if an MLP of FLUX's names is as large as in FLUX.2, where it has gates; None if no key tells."""
    for key, shape in shapes.items():
        if (match := SIZED.search(key)) and len(shape) == 2:
            down = shapes.get(f"{key[: match.start(1)]}{DOWN_OF[match[1]]}") if match[1] in DOWN_OF else shape
            ratio = Fraction(shape[0], down[-1] or 1) if down else None
            if ratio in GATED or ratio in PLAIN:
                return ratio in GATED
    return None


def deep_enough(label: str, shapes: Shapes) -> bool:
    """False if the file has blocks that the family's models do not have, or ends just where another's end."""
    found = depths(shapes)
    own = DEPTHS.get(label)
    if own is None or found == (0, 0):
        return True
    others = [depth for name, depth in DEPTHS.items() if depth != own]
    if any(here > there for here, there in zip(found, own, strict=True)):
        return False
    return not any(
        here and here == there and here < mine
        for depth in others
        for here, there, mine in zip(found, depth, own, strict=True)
    )


def depths(shapes: Shapes) -> tuple[int, int]:
    """How many double and single blocks the keys number."""

    def count(pattern: re.Pattern[str]) -> int:
        return max((int(match[1]) + 1 for key in shapes for match in pattern.finditer(key)), default=0)

    return count(DOUBLE), count(SINGLE)


def size_hint(found: tuple[int, int], wanted: tuple[int, int]) -> str:
    """What is known about the sizes of the file and of the model."""
    here, there = (
        next((f"{name}" for width, name in WIDTHS.items() if width in shape), None) for shape in (found, wanted)
    )
    if here is None or here == there:
        return ""
    return f" ({here}, going by its width)"
