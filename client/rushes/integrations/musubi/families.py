"""Which family the flags of a musubi-tuner script mean. Names and tasks are those of its version 0.3.4."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from rushes.errors import ArchitectureError
from rushes.families.table import ARCHITECTURES

WAN_TASKS = {
    "t2v-1.3B": "wan2.1-t2v",
    "t2v-14B": "wan2.1-t2v",
    "t2i-14B": "wan2.1-t2v",
    "i2v-14B": "wan2.1-i2v",
    "flf2v-14B": "wan2.1-flf2v",
    "t2v-1.3B-FC": "wan2.1-fun-control",
    "t2v-14B-FC": "wan2.1-fun-control",
    "i2v-14B-FC": "wan2.1-fun-control",
    "t2v-A14B": "wan2.2-t2v-a14b",
    "i2v-A14B": "wan2.2-i2v-a14b",
}
"""`--task` of wan_train_network.py -> family."""

SKYREELS_I2V_CHANNELS = 32
"""`--dit_in_channels` of hv_train_network.py by which it knows SkyReels V1 I2V."""

CHOICES = ("--task", "--model_version", "--one_frame")
"""Flags that choose among a script's models, told when none of them is served."""


def hunyuan_family(args: argparse.Namespace) -> str:
    """HunyuanVideo, or SkyReels by its input channels. SkyReels T2V has HunyuanVideo's: it must be named."""
    return "skyreels-v1-i2v" if args.dit_in_channels == SKYREELS_I2V_CHANNELS else "hunyuan-video"


def wan_family(args: argparse.Namespace) -> str | None:
    """Wan by its task; None for those that are not served. `--one_frame` makes it another, as FramePack's."""
    family = WAN_TASKS.get(args.task)
    if family is None or not given(args, "--one_frame"):
        return family
    return family if any(flag == "one_frame" for flag, _ in ARCHITECTURES[family].variants) else None


def kandinsky_family(args: argparse.Namespace) -> str:
    """Kandinsky 5 by what its task makes: `k5-lite-t2v-5s-sd` is of `kandinsky5-t2v`."""
    return f"kandinsky5-{args.task.split('-')[2]}"


FAMILIES: Mapping[str, Callable[[argparse.Namespace], str | None]] = {
    "hv": hunyuan_family,
    "wan": wan_family,
    "hv15": lambda args: f"hunyuan-video-1.5-{args.task}",
    "fp": lambda _args: "framepack",  # `--one_frame` makes it another, see `ArchitectureSpec.variants`
    "fk": lambda _args: "flux1-kontext",
    # Which edit model it is, is said by `--model_version`, as for FLUX.2; the trainer turns `--edit` and
    # `--edit_plus` into it.
    "qi": lambda _args: "qwen-image",
    "qie": lambda _args: "qwen-image-edit",
    "qil": lambda _args: "qwen-image-layered",
    "zi": lambda _args: "z-image",
    "kr2": lambda _args: "krea2",  # `--turbo_dit` makes it Turbo, see `ArchitectureSpec.stand_ins`
    "f2d": lambda _args: "flux2-dev",
    "f2k4b": lambda _args: "flux2-klein",
    "f2k9b": lambda _args: "flux2-klein",
    "k5": kandinsky_family,
}
"""A trainer's own short name of its architecture -> which family its flags mean."""


def family_of(architecture: str, args: argparse.Namespace) -> str:
    """The family to sample.

    Args:
        architecture: the trainer's own `architecture`.

    Raises:
        ArchitectureError: Rushes does not serve what is trained.
    """
    if named := getattr(args, "rushes_architecture", None):
        return named
    family = FAMILIES[architecture](args) if architecture in FAMILIES else None
    if family is None or family not in ARCHITECTURES:
        flags = "".join(f" {flag} {getattr(args, flag[2:])}" for flag in CHOICES if given(args, flag))
        raise ArchitectureError(
            f"Rushes cannot sample what musubi-tuner calls {architecture!r}{flags}; it can sample "
            f"{', '.join(sorted(ARCHITECTURES))}. If one of them is meant, say --rushes_architecture"
        )
    return family


def given(args: argparse.Namespace, flag: str) -> bool:
    """True when a flag has a value."""
    return bool(getattr(args, flag[2:], None))
