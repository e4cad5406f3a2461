"""A small but real LoRA trainer for Wan2.1, sampled by Rushes.

It is meant to be read and copied: flow matching on short clips, a plain LoRA on the transformer's
linear layers, checkpoints in musubi-tuner's format. What Rushes adds to it are the flags, and the
lines in `train` that speak to `sampler`.

    python -m rushes_service.demo.trainer --rushes_model MODEL_DIR --output_dir out --output_name demo \
        --sample_prompts prompts.txt --sample_every_n_steps 10 --sample_at_first
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from safetensors.torch import save_file
from torch import nn

import rushes
from rushes_service.demo.clips import make_clips

logger = logging.getLogger("trainer")

ARCHITECTURE = "wan2.1-t2v"
TRAIN_TIMESTEPS = 1000
"""Wan's time embedding takes times of 0..1000."""

ORIGINAL_NAMES = {
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out_0": "o",
    "net_0_proj": "0",
    "net_2": "2",
}
"""Names of diffusers' modules (dots as underscores) in Wan's own code, which LoRA files go by."""

TARGETS = re.compile(r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))")


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trainable update of low rank."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] -> [..., out_features]."""
        return self.base(x) + (x @ self.down.T @ self.up.T) * self.scale


class LoraNetwork:
    """A LoRA on every attention and feed-forward layer of a Wan transformer."""

    def __init__(self, transformer: WanTransformer3DModel, rank: int, alpha: float) -> None:
        self.rank, self.alpha = rank, alpha
        self.layers: dict[str, LoraLinear] = {}
        transformer.requires_grad_(False)
        for name, module in list(transformer.named_modules()):
            if TARGETS.fullmatch(name):
                parent, _, child = name.rpartition(".")
                self.layers[name] = LoraLinear(module, rank, alpha)
                setattr(transformer.get_submodule(parent), child, self.layers[name])

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimizer trains."""
        return [parameter for layer in self.layers.values() for parameter in (layer.down, layer.up)]

    def save_weights(self, path: str | Path, dtype: torch.dtype, metadata: dict[str, str]) -> None:
        """Write the LoRA as musubi-tuner does: `lora_unet_<module>.lora_down|lora_up.weight` and `.alpha`."""
        tensors = {}
        for name, layer in self.layers.items():
            key = f"lora_unet_{original_name(name)}"
            tensors[f"{key}.lora_down.weight"] = layer.down.detach().to(dtype).contiguous()
            tensors[f"{key}.lora_up.weight"] = layer.up.detach().to(dtype).contiguous()
            tensors[f"{key}.alpha"] = torch.tensor(self.alpha, dtype=dtype)
        save_file(tensors, str(path), metadata={"ss_network_dim": str(self.rank), **metadata})


def original_name(module: str) -> str:
    """`blocks.0.attn1.to_q` -> `blocks_0_self_attn_q`."""
    name = module.replace(".", "_")
    for ours, original in ORIGINAL_NAMES.items():
        name = re.sub(rf"_{ours}(?=_|$)", f"_{original}", name)
    return name


def main(argv: Sequence[str] | None = None) -> int:
    """Train by the command line; 0 when every step was taken, 1 if the model or a flag is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    args = parse_arguments(argv)
    torch.manual_seed(args.seed)
    try:
        batches = Dataset(args.rushes_model, frames=args.frames, seed=args.seed)
        transformer = WanTransformer3DModel.from_pretrained(args.rushes_model, subfolder="transformer")
        network = LoraNetwork(transformer, rank=args.network_dim, alpha=args.network_alpha)
        train(args, transformer, network, batches)
    except (rushes.RushesError, OSError) as error:
        logger.error("%s", error)
        return 1
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The trainer's own flags, and those Rushes adds."""
    parser = argparse.ArgumentParser(description="Train a LoRA for a (tiny) Wan2.1 model and sample every checkpoint.")
    parser.add_argument("--max_train_steps", type=int, default=100)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--network_dim", type=int, default=8, help="LoRA rank")
    parser.add_argument("--network_alpha", type=float, default=8.0)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--frames", type=int, default=17, help="frames of a training clip, 4k+1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="write what sampling cost this process to this JSON file")
    rushes.add_sampling_arguments(parser)
    args = parser.parse_args(argv)
    if not (args.rushes_model and args.output_dir):
        parser.error("--rushes_model (a diffusers directory) and --output_dir are needed")
    return args


def train(args: argparse.Namespace, transformer: WanTransformer3DModel, network: LoraNetwork, batches: Dataset) -> None:
    """The training loop. Only `sampler` belongs to Rushes; `held_up` measures its cost for this loop."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.learning_rate)
    metadata = {"ss_base_model_version": "wan2.1", "ss_network_module": "networks.lora_wan"}
    held_up = HeldUp()
    started = time.perf_counter()

    with held_up:
        sampler = rushes.TrainingSampler.from_args(args, architecture=ARCHITECTURE)
    for step in range(args.max_train_steps + 1):
        if step > 0:
            loss = flow_matching_loss(transformer, *batches.draw(args.batch_size))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            logger.info("step %d/%d loss %.4f", step, args.max_train_steps, loss.item())
        with held_up:
            if sampler.due(step=step):
                sampler.submit(step=step, weights=lambda path: network.save_weights(path, torch.bfloat16, metadata))
                held_up.submitted()
            for result in sampler.results():  # never blocks
                logger.info("sample of step %d: %s %s", result.step, result.state.value, result.path or "")
    with held_up:
        sampler.close(wait=False)

    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    network.save_weights(Path(args.output_dir, f"{args.output_name or 'lora'}.safetensors"), torch.bfloat16, metadata)
    if args.report:
        args.report.write_text(json.dumps(held_up.report(time.perf_counter() - started)))


def flow_matching_loss(transformer: WanTransformer3DModel, latents: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Squared error of the predicted velocity from latents [B, 16, T, h, w] to noise."""
    noise = torch.randn_like(latents)
    level = torch.rand(len(latents), 1, 1, 1, 1)  # 0: the clip, 1: pure noise
    noisy = (1 - level) * latents + level * noise
    velocity = transformer(noisy, level.flatten() * TRAIN_TIMESTEPS, texts).sample
    return nn.functional.mse_loss(velocity, noise - latents)


class Dataset:
    """Synthetic clips as latents, and their captions as embeddings, all encoded once before training."""

    @torch.no_grad()
    def __init__(self, model: str, *, frames: int, seed: int, count: int = 48) -> None:
        captions, clips = make_clips(count, frames, seed)
        vae = AutoencoderKLWan.from_pretrained(model, subfolder="vae")
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        encoded = vae.encode(torch.from_numpy(clips)).latent_dist.mode()
        self.latents = (encoded - mean) / std
        encoder = WanPipeline.from_pretrained(model, transformer=None, vae=None)
        self.texts = encoder.encode_prompt(captions, do_classifier_free_guidance=False)[0].float()

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [count, 16, T, h, w] and text embeddings [count, 512, text_dim] of random clips."""
        chosen = torch.randint(len(self.latents), (count,))
        return self.latents[chosen], self.texts[chosen]


class HeldUp:
    """Seconds this process spent in calls of the sampler; `with held_up:` around each group of calls."""

    def __init__(self) -> None:
        self.total = 0.0
        self.submits: list[float] = []

    def __enter__(self) -> None:
        self.entered = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.total += time.perf_counter() - self.entered

    def submitted(self) -> None:
        """Note the time since `with` as that of one submission."""
        self.submits.append(time.perf_counter() - self.entered)

    def report(self, training_seconds: float) -> dict[str, object]:
        """The figures for the demo's summary, in seconds."""
        return {"training_s": training_seconds, "held_up_s": self.total, "submits_s": self.submits}


if __name__ == "__main__":
    raise SystemExit(main())
