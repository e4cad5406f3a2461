"""Which model family a file's keys look like: for messages, when they fit nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]

FLUX, HUNYUAN, FRAMEPACK, WAN = "flux1", "hunyuan-video", "framepack", "wan"

SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)[._]", ("stable-diffusion",)),
    (r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn|modulation)|(^|\.)blocks\.\d+\.(attn[12]|ffn)", (WAN,)),
    (r"individual_token_refiner|(img|txt)_mod[._]linear|(img|txt)_mlp[._]fc[12]|modulation[._]linear", (HUNYUAN,)),
    (r"double_blocks\.\d+\.(img|txt)_attn_(qkv|proj|q_norm|k_norm)", (HUNYUAN,)),
    (r"double_blocks[._]\d+[._](img|txt)_(mod[._]lin([._]|$)|mlp[._][02]|attn\.|attn_norm)", (FLUX,)),
    (r"single_blocks[._]\d+[._](modulation[._]lin([._]|$)|norm[._])", (FLUX,)),
    (r"(double|single)_blocks[._]\d+", (FLUX, HUNYUAN)),
    (r"clean_x_embedder|image_projection", (FRAMEPACK,)),
    (r"^lora_unet_(single_)?transformer_blocks_\d+_(attn|ff|norm|proj)(?!\d)", (FRAMEPACK,)),
    (r"token_refiner", (HUNYUAN, FRAMEPACK)),
    (r"transformer_blocks[._]\d+[._]((img|txt)_(mlp|mod))", ("qwen-image",)),
    (r"transformer_blocks[._]\d+[._]attn[12]", ("ltx-video", "cogvideox")),
    (r"(^|[._])(single_)?transformer_blocks[._]\d+[._]", (FLUX, HUNYUAN, FRAMEPACK)),
    (r"(^|[._])layers[._]\d+[._](attention|feed_forward)", ("z-image",)),
)
"""What gives a family away in a key. The first sign that is found counts; several families share some names."""

DEPTHS = {FLUX: (19, 38), HUNYUAN: (20, 40), FRAMEPACK: (20, 40)}
"""Double and single blocks of the released models: FLUX and HunyuanVideo share names and widths, but not depth."""

DOUBLE = re.compile(r"(?:double_blocks|(?<!single_)transformer_blocks)[._](\d+)[._]")
SINGLE = re.compile(r"(?:single_blocks|single_transformer_blocks)[._](\d+)[._]")

PROGRAMS = {HUNYUAN: ("hunyuan-video", "skyreels-v1", "framepack")}
"""Architectures whose files a label stands for, where these are more than those that begin with it."""

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
        return any(architecture.startswith(PROGRAMS.get(label, (label,))) for label in self.labels)


def guess_family(shapes: Shapes) -> Guess | None:
    """The family that most keys look like, or None.

    Args:
        shapes: shape of each tensor, by key.
    """
    sole: Counter[str] = Counter()
    votes: Counter[str] = Counter()
    for key in shapes:
        labels = next((labels for sign, labels in SIGNS if re.search(sign, key)), ())
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
