"""Which classes of musubi-tuner are exchanged for which of ours."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rushes.integrations.launching import Trainer, launch
from rushes.integrations.musubi.fine_tuning import RushesFineTuning, RushesHunyuanFineTuning
from rushes.integrations.musubi.sampling import RushesSampling

MUSUBI_TUNER = Trainer(
    name="musubi-tuner",
    module="musubi_tuner.hv_train_network",
    base="NetworkTrainer",
    needs=(
        "train",
        "process_sample_prompts",
        "load_vae",
        "resume_from_local_or_hf_if_specified",
        "on_before_sample_images",
        "on_after_sample_images",
        "sample_images",
        "generate_step_logs",
    ),
    tried="versions 0.3.0 to 0.3.4",
    mixin=RushesSampling,
    scripts="its LoRA training scripts do (their names end in train_network.py), and its full fine-tunes but for "
    "HiDream-O1's (qwen_image_train.py, zimage_train.py, hv_train.py)",
    fine_tuners={
        "QwenImageTrainer": RushesFineTuning,
        "ZImageTrainer": RushesFineTuning,
        "FineTuningTrainer": RushesHunyuanFineTuning,
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m rushes.integrations.musubi <script> <arguments>`."""
    return launch(MUSUBI_TUNER, sys.argv[1:] if argv is None else argv)
