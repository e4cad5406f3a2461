"""What the three short examples train: a LoRA of PEFT on a Wan2.1 transformer, with random clips."""

from __future__ import annotations

import argparse

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig
from torch import nn

import rushes

ARCHITECTURE = "wan2.1-t2v"
FRAMES, SIDE = 3, 8
"""Of a training clip, in latents."""


class WanLora(nn.Module):
    """A transformer with a LoRA on its attention, and the loss of flow matching."""

    def __init__(self, model: str, rank: int = 4) -> None:
        super().__init__()
        self.transformer = WanTransformer3DModel.from_pretrained(model, subfolder="transformer")
        self.transformer.requires_grad_(False)
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        self.transformer.add_adapter(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))

    def forward(self, latents: torch.Tensor, texts: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss of the velocity from latents [B, 16, T, h, w] to noise, with text embeddings [B, tokens, dim]."""
        noise = torch.randn_like(latents)
        level = torch.rand(len(latents), 1, 1, 1, 1)
        noisy = (1 - level) * latents + level * noise
        velocity = self.transformer(noisy, level.flatten() * 1000, texts).sample
        return {"loss": nn.functional.mse_loss(velocity, noise - latents)}


class RandomClips(torch.utils.data.Dataset):
    """Latents and text embeddings without meaning, of the sizes that the transformer takes."""

    def __init__(self, transformer: WanTransformer3DModel, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        channels, width = transformer.config.in_channels, transformer.config.text_dim
        self.latents = torch.randn(count, channels, FRAMES, SIDE, SIDE, generator=generator)
        self.texts = torch.randn(count, 16, width, generator=generator)

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"latents": self.latents[index], "texts": self.texts[index]}


def parse_arguments() -> argparse.Namespace:
    """The flags of every example."""
    parser = argparse.ArgumentParser(description="Train a LoRA for a (tiny) Wan2.1 model; every checkpoint is sampled.")
    parser.add_argument("--max_train_steps", type=int, default=6)
    parser.add_argument("--wait", type=float, default=0.0, help="seconds to wait for samples at the end")
    rushes.add_sampling_arguments(parser)
    args = parser.parse_args()
    if not (args.rushes_model and args.output_dir):
        parser.error("--rushes_model (a diffusers directory) and --output_dir are needed")
    return args
