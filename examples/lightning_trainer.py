"""Lightning, sampled by Rushes."""

from __future__ import annotations

import lightning
import torch
from wan_lora import ARCHITECTURE, RandomClips, WanLora, parse_arguments

import rushes
from rushes.integrations.lightning import SamplingCallback


class LoraModule(lightning.LightningModule):
    """A LoRA as Lightning trains it."""

    def __init__(self, lora: WanLora) -> None:
        super().__init__()
        self.lora = lora

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Loss of a batch."""
        return self.lora(**batch)["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on the LoRA."""
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-3)


def main() -> None:
    """Train, and sample what is due."""
    args = parse_arguments()
    lora = WanLora(args.rushes_model)
    clips = RandomClips(lora.transformer, count=2 * args.max_train_steps)
    callback = SamplingCallback(
        lambda: rushes.TrainingSampler.from_args(args, architecture=ARCHITECTURE), wait_s=args.wait
    )
    trainer = lightning.Trainer(
        max_steps=args.max_train_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[callback],
    )
    trainer.fit(LoraModule(lora), torch.utils.data.DataLoader(clips, batch_size=2))


if __name__ == "__main__":
    main()
