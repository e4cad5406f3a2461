"""What musubi-tuner's `--task` says of a Kandinsky 5 model besides its files (kandinsky5/configs.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PUBLISHER = "kandinskylab/Kandinsky-5.0"


@dataclass(frozen=True)
class Task:
    """How one published model is sampled: its repository, the shift of its schedule, what rotary places are divided by.

    `sparse` is True if it is published with sparse attention, which the task replaces by full attention.
    """

    hub_id: str
    flow_shift: float = 10.0
    scale_factor: tuple[float, float, float] = (1.0, 2.0, 2.0)
    sparse: bool = False


TASKS: Mapping[str, Task] = {
    "k5-lite-t2v-5s-sd": Task(f"{PUBLISHER}-T2V-Lite-sft-5s-Diffusers"),
    "k5-pro-t2v-5s-sd": Task(f"{PUBLISHER}-T2V-Pro-sft-5s-Diffusers", sparse=True),
    "k5-lite-t2v-5s-distil-sd": Task(f"{PUBLISHER}-T2V-Lite-distilled16steps-5s-Diffusers", flow_shift=5.0),
    "k5-lite-t2v-5s-nocfg-sd": Task(f"{PUBLISHER}-T2V-Lite-nocfg-5s-Diffusers"),
    "k5-lite-t2v-5s-pretrain-sd": Task(f"{PUBLISHER}-T2V-Lite-pretrain-5s-Diffusers"),
    "k5-lite-i2v-5s-sd": Task(f"{PUBLISHER}-I2V-Lite-5s-Diffusers"),
    "k5-pro-i2v-5s-sd": Task(f"{PUBLISHER}-I2V-Pro-sft-5s-Diffusers", sparse=True),
    "k5-lite-t2i-hd": Task(f"{PUBLISHER}-T2I-Lite-sft-Diffusers", flow_shift=3.0, scale_factor=(1.0, 1.0, 1.0)),
}
