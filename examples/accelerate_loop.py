"""A loop with accelerate, as in diffusers' own LoRA scripts, sampled by Rushes, with results in TensorBoard."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from wan_lora import ARCHITECTURE, RandomClips, WanLora, parse_arguments

import rushes
from rushes.integrations.accelerate import sampling


def main() -> None:
    """Train, and sample what is due."""
    args = parse_arguments()
    accelerator = Accelerator(log_with="tensorboard", project_dir=args.output_dir, gradient_accumulation_steps=2)
    accelerator.init_trackers("logs")
    lora = WanLora(args.rushes_model)
    clips = RandomClips(lora.transformer, count=4 * args.max_train_steps)
    optimizer = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad], lr=1e-3)
    lora, optimizer, batches = accelerator.prepare(lora, optimizer, torch.utils.data.DataLoader(clips, batch_size=2))

    def make_sampler() -> rushes.TrainingSampler:
        return rushes.TrainingSampler.from_args(args, architecture=ARCHITECTURE)

    step = 0
    with sampling(accelerator, lora, make_sampler, wait_s=args.wait) as samples:
        samples.step(0)
        for batch in batches:
            with accelerator.accumulate(lora):
                loss = lora(**batch)["loss"]
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                step += 1
                accelerator.log({"loss": loss.item()}, step=step)
                samples.step(step)
    accelerator.end_training()


if __name__ == "__main__":
    main()
