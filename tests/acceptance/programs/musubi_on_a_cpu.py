"""The launcher on a machine without a GPU: musubi-tuner for a model of a few thousand weights, with tripwires.

    python musubi_on_a_cpu.py TRIPPED <module of a training script> <its arguments>

What is patched to run at all: the sizes of the transformer (see `musubi_sizes`), which are read from a configuration
beside `--dit`; a default argument that asks CUDA for its device; and operators of torchvision that its build for CUDA
lacks beside torch for the CPU. Nothing of sampling or of the training loop. The tripwires write to the file TRIPPED
what must never be called.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from musubi_sizes import SIZES

LOADS = re.compile(r"load_\w*(vae|_ae|autoencoder|text_enc|text_embed|t5|clip|byt5|qwen2_5|qwen3|llm|image_enc)\w*")
"""Functions of musubi-tuner that load what samples alone need, by name."""

SAMPLES = ("do_inference", "process_sample_prompts", "sample_images", "sample_image_inference", "load_vae")
"""Methods of a trainer that sample or prepare to."""

TOLD = "tells_when_it_is_called"


def make_it_run(script: str, dit: Path) -> None:
    """Let musubi-tuner be imported here, and load a tiny transformer."""
    torch.cuda.current_device = lambda: 0
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["operators"] = operators  # they are gone when this is
    family = script.rpartition(".")[2].partition("_train")[0]
    SIZES[family](json.loads(dit.with_suffix(".config.json").read_text()))


def set_tripwires(script: str, tripped: Path) -> None:
    """Write down whoever loads an encoder or a VAE, or enters the trainer's own sampler."""
    base = importlib.import_module("musubi_tuner.training.trainer_base").NetworkTrainer
    importlib.import_module(script)
    for name, kind in (("t5", "T5EncoderModel"), ("clip", "CLIPModel"), ("vae", "WanVAE")):
        trip(getattr(importlib.import_module(f"musubi_tuner.wan.modules.{name}"), kind), "__init__", tripped)
    modules = [module for name, module in sys.modules.items() if name.startswith("musubi_tuner.")]
    for module in modules:
        for name, value in list(vars(module).items()):
            if (isinstance(value, FunctionType) and LOADS.fullmatch(name)) or name == "load_ae":
                trip(module, name, tripped)
            elif isinstance(value, type) and name.endswith("Trainer"):
                trip_methods(value, tripped)
    # A script is run again as `__main__`, with classes of its own.
    base.__init_subclass__ = classmethod(lambda kind: trip_methods(kind, tripped))


def trip_methods(trainer: type, tripped: Path) -> None:
    """The same for a class of musubi-tuner that trains."""
    for name in SAMPLES:
        if name in vars(trainer) and not hasattr(vars(trainer)[name], TOLD):
            trip(trainer, name, tripped)


def trip(owner: Any, name: str, tripped: Path) -> None:
    """Have `owner.name` write its name down whenever it is called."""
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def told(*args: Any, **kwargs: Any) -> Any:
        with tripped.open("a") as file:
            file.write(f"{owner.__name__}.{name}\n")
        return original(*args, **kwargs)

    setattr(told, TOLD, True)
    setattr(owner, name, told)


if __name__ == "__main__":
    make_it_run(sys.argv[2], Path(sys.argv[sys.argv.index("--dit") + 1]))
    set_tripwires(sys.argv[2], Path(sys.argv[1]))
    from rushes.integrations.musubi.launcher import main

    raise SystemExit(main(sys.argv[2:]))
