"""Hugging Face's Trainer, sampled by Rushes."""

from __future__ import annotations

from transformers import Trainer, TrainingArguments
from wan_lora import ARCHITECTURE, RandomClips, WanLora, parse_arguments

import rushes
from rushes.integrations.transformers import SamplingCallback


def main() -> None:
    """Train, and sample what is due."""
    args = parse_arguments()
    lora = WanLora(args.rushes_model)
    settings = TrainingArguments(
        output_dir=args.output_dir,
        max_steps=args.max_train_steps,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
    )
    clips = RandomClips(lora.transformer, count=2 * args.max_train_steps)
    callback = SamplingCallback(
        lambda: rushes.TrainingSampler.from_args(args, architecture=ARCHITECTURE), wait_s=args.wait
    )
    Trainer(model=lora, args=settings, train_dataset=clips, callbacks=[callback]).train()


if __name__ == "__main__":
    main()
