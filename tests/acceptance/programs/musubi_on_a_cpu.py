"""The launcher on a machine without a GPU: musubi-tuner for a Wan of a few thousand weights, with tripwires.

    python musubi_on_a_cpu.py TRIPPED <training script> <its arguments>

What is patched to run at all: the size of Wan's transformer, which musubi-tuner knows by heart; a default argument
that asks CUDA for its device; and operators of torchvision that its build for CUDA lacks beside torch for the CPU.
Nothing of sampling or of the training loop. The tripwires write to the file TRIPPED what must never be called.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

TINY = {"dim": 64, "ffn_dim": 128, "freq_dim": 64, "num_heads": 4, "num_layers": 2}
TEXT_DIM = 32


def make_it_run() -> None:
    """Let musubi-tuner be imported here, and load the tests' tiny transformer."""
    torch.cuda.current_device = lambda: 0
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["operators"] = operators  # they are gone when this is

    from musubi_tuner.wan.configs import WAN_CONFIGS
    from musubi_tuner.wan.modules import model

    WAN_CONFIGS["t2v-1.3B"].update(TINY)
    build = model.WanModel.__init__

    def build_tiny(self: Any, *args: Any, **sizes: Any) -> None:
        build(self, *args, **{"text_dim": TEXT_DIM, **sizes})

    model.WanModel.__init__ = build_tiny


def set_tripwires(tripped: Path) -> None:
    """Write down whoever loads an encoder or a VAE, or enters the trainer's own sampler."""
    from musubi_tuner import wan_train_network as script
    from musubi_tuner.training.trainer_base import NetworkTrainer
    from musubi_tuner.wan.modules import clip, t5, vae

    def trip(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def told(*args: Any, **kwargs: Any) -> Any:
            with tripped.open("a") as file:
                file.write(f"{owner.__name__}.{name}\n")
            return original(*args, **kwargs)

        setattr(owner, name, told)

    for owner in (t5.T5EncoderModel, clip.CLIPModel, vae.WanVAE):
        trip(owner, "__init__")
    trip(script.WanNetworkTrainer, "do_inference")
    trip(script.WanNetworkTrainer, "process_sample_prompts")
    trip(NetworkTrainer, "sample_images")


if __name__ == "__main__":
    make_it_run()
    set_tripwires(Path(sys.argv[1]))
    from rushes.integrations.musubi import main

    raise SystemExit(main(sys.argv[2:]))
