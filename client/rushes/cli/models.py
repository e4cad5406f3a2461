"""List the model families: what each needs, ignores and takes by default.

rushes models
rushes models framepack flux1-kontext      only these
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from rushes.families.parameters import resolve
from rushes.families.prompt_options import OPTION_OF_FIELD
from rushes.families.spec import ArchitectureSpec, CfgRule
from rushes.families.table import ARCHITECTURES, NOT_YET, architecture
from rushes.wire.jobs import Prompt

DEFAULTS = ("width", "height", "frame_count", "sample_steps", "guidance_scale", "discrete_flow_shift")
"""Fields whose default is shown as the sampler resolves it; `cfg_scale` depends on more than itself."""

CFG_RULES: dict[CfgRule, str] = {
    "unless_one": "always, unless --l 1",
    "above_one": "with --l above 1",
    "by_guidance": "always, at the scale of --g",
    "by_guidance_unless_one": "at the scale of --g, unless it is 1",
    "with_negative": "with both --n and --l other than 1",
    "with_negative_above_one": "with both --n and --l above 1",
    "with_scale": "with --l other than 1",
    "never": "never",
    "by_pipeline": "as the pipeline has it",
}


WITHOUT_NEGATIVE = ("unless_one", "above_one", "by_guidance", "by_guidance_unless_one")
"""Rules by which guidance is on without a negative prompt, which is then the model's own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes models`."""
    parser.add_argument("names", nargs="*", metavar="ARCHITECTURE", help="only these families (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the families."""
    found = [describe(architecture(name)) for name in args.names or sorted(ARCHITECTURES)]
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        print("\n\n".join(as_text(family) for family in found))
        if not args.names:
            print("\nnot yet: " + "; ".join(f"{name} ({reason})" for name, reason in NOT_YET.items()))
    return 0


def describe(spec: ArchitectureSpec) -> dict[str, Any]:
    """One family as plain data; `fps` is None for single pictures, and where the model says it."""
    asked: dict[str, Any] = {field: example(field) for field in spec.requires}
    resolved, _ = resolve(Prompt(prompt="", **asked), spec)
    own = resolved.left_to_model
    defaults = {field: None if field in own else getattr(resolved, field) for field in DEFAULTS}
    if spec.latent_frames is not None:
        defaults["frame_count"] = spec.latent_frames
    negative = spec.negative_prompt if spec.cfg in WITHOUT_NEGATIVE else None
    if spec.layers is not None:
        defaults["frame_count"] = spec.layers
    still = spec.image_only and spec.layers is None
    ignored = [*spec.ignores, "frame_count"] if still else spec.ignores
    clips = not (spec.image_only or spec.own_defaults)
    makes = "pictures" if spec.image_only else "clips" if spec.sections else "pictures and clips"
    return {
        "name": spec.name,
        "title": spec.title,
        "makes": "pictures or clips, as the pipeline does" if spec.own_defaults else makes,
        "requires": options(spec.requires),
        "uses": options(spec.uses - spec.requires),
        "ignores": options(ignored),
        "defaults": {
            **defaults,
            "cfg_scale": None if "cfg_scale" in own else spec.cfg_scale,
            "negative_prompt": negative,
        },
        "classifier_free_guidance": CFG_RULES[spec.cfg],
        "size_multiple": spec.size_multiple,
        "sizes_rounded_up": spec.size_floor is not None,
        "frame_stride": None if not clips else resolved.frame_count - 1 if spec.sections else spec.frame_stride,
        "layers": spec.layers,
        "frames_are_latent": spec.latent_frames is not None,
        "seed": spec.seed,
        "versions": list(spec.versions),
        "version_flag": spec.version_flag,
        "fps": spec.fps if clips else None,
        "hub_id": spec.hub_id,
        "transformer_hub_id": spec.transformer_hub_id,
        "sampled": spec.sampled,
    }


def example(field: str) -> str | tuple[str, ...]:
    """A value of an input that a family needs."""
    values = {"control_image_path": ("example.png",), "one_frame": "target_index=1,control_index=0"}
    return values.get(field, "example.png")


def options(fields: Iterable[str]) -> list[str]:
    """Fields as they are written in a prompt line, in the order of the documentation."""
    wanted = set(fields)
    return [option for field, option in OPTION_OF_FIELD.items() if field in wanted]


def as_text(family: dict[str, Any]) -> str:
    """One family for people."""
    given = family["defaults"]
    counted = family["frame_stride"] is not None or family["layers"] is not None
    frames = f"  --f {given['frame_count']}" if counted else ""
    numbers = [
        f"{OPTION_OF_FIELD[field]} {given[field]:g}"
        for field in ("sample_steps", "guidance_scale", "discrete_flow_shift", "cfg_scale")
        if given[field] is not None and OPTION_OF_FIELD[field] not in family["ignores"]
    ]
    rows = {
        "makes": family["makes"] + (f" at {family['fps']} frames a second" if family["fps"] else ""),
        "needs": " ".join(family["requires"]) or "words alone",
        "takes": " ".join(family["uses"]),
        "ignores": " ".join(family["ignores"]),
        "defaults": f"--w {given['width']}  --h {given['height']}{frames}  {'  '.join(numbers)}"
        if given["width"]
        else "the pipeline's own",
        "sizes": f"multiples of {family['size_multiple']} pixels{rounding(family)}{frame_rule(family)}",
        "guidance": f"classifier-free: {family['classifier_free_guidance']}",
        "versions": f"--model_version {' '.join(family['versions'])}{trainers_flag(family)}"
        if len(family["versions"]) > 1
        else "",
        "model": family["hub_id"],
        "and": family["transformer_hub_id"],
    }
    head = family["name"] + ("" if family["sampled"] else "  (not sampled yet)")
    lines = [f"    {label:9s} {text}" for label, text in rows.items() if text]
    return "\n".join([f"{head}  {family['title']}", *lines])


def trainers_flag(family: dict[str, Any]) -> str:
    """What the trainer calls the version, if not as we do."""
    return "" if family["version_flag"] == "model_version" else f" (the trainer's --{family['version_flag']})"


def rounding(family: dict[str, Any]) -> str:
    """Which way other sizes are rounded, if it is not down."""
    return " (others are rounded up)" if family["sizes_rounded_up"] else ""


def frame_rule(family: dict[str, Any]) -> str:
    """How many frames a clip may have."""
    stride = family["frame_stride"]
    if family["layers"] is not None:
        return ", --f layers and one more"
    if family["frames_are_latent"]:
        return f", --f counts latent frames: {stride}(f-1)+1 pictures"
    return "" if stride is None else f", {stride}k+1 frames"
