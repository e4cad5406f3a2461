"""Trains the world's VAE from nothing: single pictures first, then clips of 9 frames.

    python examples/tiny_world/vae.py --work work/

Stop it at any time and start it again: it goes on where the last checkpoint was written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders import autoencoder_kl_wan as wan
from muon import Both, Clock, join, schedule
from pictures import batch
from torch import distributed, nn
from torch.nn import functional

CONFIG = {"base_dim": 16, "num_res_blocks": 1, "dim_mult": [1, 2, 3, 3], "attn_scales": []}
MUON_LR, ADAM_LR = 0.02, 2e-3
CLIP_RATE = 0.2
"""Of the learning rates, for clips: faster, and what the pictures taught is lost."""

KL = 2e-4
LOG_VARIANCE = -6.0
"""Of the posterior at first: little noise, so that the decoder learns from codes that mean something."""

CLIP_FRAMES = 9
SAVE_EVERY_S = 60.0
COLOUR_AXES = torch.tensor([[0.3, 0.5, 0.2], [0.7, 0.0, -0.7], [-0.5, 1.0, -0.5]])
"""Luma, red-blue, and green-magenta, which is learned last of all unless it weighs more."""


def main() -> None:
    """Train for the given minutes, or what is left of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="where checkpoints and the finished VAE go")
    parser.add_argument("--picture-minutes", type=float, default=6)
    parser.add_argument("--clip-minutes", type=float, default=12)
    parser.add_argument("--pictures", type=int, default=6, help="batch size of each process")
    parser.add_argument("--clips", type=int, default=2, help="batch size of each process")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rank = join()
    torch.manual_seed(0)
    make_faster()
    args.work.mkdir(parents=True, exist_ok=True)
    vae = new_vae()
    torch.manual_seed(rank)
    train(vae, args.work / "pictures.pt", args.picture_minutes, 1.0, frames=1, count=args.pictures)
    train(vae, args.work / "clips.pt", args.clip_minutes, CLIP_RATE, frames=CLIP_FRAMES, count=args.clips)
    if rank:
        return
    set_latent_statistics(vae)
    vae.save_pretrained(args.work / "vae")


def new_vae() -> AutoencoderKLWan:
    """The stock layout, initialised so that a picture passes through: kernels look at the present frame only."""
    vae = AutoencoderKLWan(**CONFIG)
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                module.bias.zero_()
            if isinstance(module, wan.WanCausalConv3d) and module.kernel_size[0] == 3:
                fan = module.weight[0, :, -1].numel()
                module.weight.zero_()
                module.weight[:, :, -1].normal_(std=fan**-0.5)
        for module in vae.modules():
            if isinstance(module, wan.WanResample) and hasattr(module, "time_conv"):
                copy_through(module.time_conv)
        vae.quant_conv.bias[CONFIG.get("z_dim", 16) :] = LOG_VARIANCE
        vae.quant_conv.weight[CONFIG.get("z_dim", 16) :] *= 0.1
    memory = {nn.Conv2d: torch.channels_last, wan.WanCausalConv3d: torch.channels_last_3d}
    for module in vae.modules():
        if type(module) in memory:
            module.to(memory_format=memory[type(module)])
    return vae


def copy_through(layer: nn.Conv3d) -> None:
    """Make a convolution over time pass the present frame on, once for every frame that it makes."""
    layer.weight.zero_()
    width = layer.in_channels
    for start in range(0, layer.out_channels, width):
        layer.weight[start : start + width, :, -1, 0, 0] = torch.eye(width)


def train(vae: AutoencoderKLWan, checkpoint: Path, minutes: float, rate: float, *, frames: int, count: int) -> None:
    """One stage of the training, the learning rate falling to zero over `minutes` of it."""
    optimizer = Both(vae, MUON_LR, ADAM_LR)
    random = np.random.default_rng()
    step, spent = 0, 0.0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(saved["vae"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["spent"]
    clock, saved_at = Clock(minutes, spent), spent
    while (spent := clock.spent()) < 60 * minutes:
        pictures = torch.from_numpy(batch(count, frames, random)).to(memory_format=torch.channels_last_3d)
        loss, error = reconstruction_loss(vae, pictures)
        loss.backward()
        optimizer.step(rate * schedule(spent / (60 * minutes)))
        step += 1
        if step % 10 == 0 or step < 4:
            decibels = -10 * np.log10(error / 4)
            print(f"{frames} frames, step {step}, {spent:.0f} s, loss {loss.item():.4f}, {decibels:.1f} dB", flush=True)
        if spent - saved_at > SAVE_EVERY_S:
            saved_at = spent
            save(vae, optimizer, checkpoint, step, spent)
    save(vae, optimizer, checkpoint, step, 60 * minutes)


def save(vae: AutoencoderKLWan, optimizer: Both, path: Path, step: int, spent: float) -> None:
    """Write a checkpoint, whole or not at all; of several processes only the first does."""
    if distributed.is_initialized() and distributed.get_rank():
        return
    state = {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": spent}
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def reconstruction_loss(vae: AutoencoderKLWan, pictures: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The loss of `pictures` [B, 3, T, H, W], and the mean squared error alone."""
    posterior = vae.encode(pictures).latent_dist
    decoded = decode(vae, posterior.sample())
    apart = decoded - pictures
    colour = torch.einsum("kc,bcthw->bkthw", COLOUR_AXES, apart)
    loss = colour.abs().mean() + 0.5 * apart.square().mean()
    loss = loss + 0.5 * (apart.diff(dim=3).abs().mean() + apart.diff(dim=4).abs().mean())
    if pictures.shape[2] > 1:
        loss = loss + 0.25 * apart.diff(dim=2).abs().mean()
    return loss + KL * posterior.kl().mean() / posterior.mean[0].numel(), apart.detach().square().mean().item()


def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """As `vae.decode`, but without its clamp, which would stop the gradient of what is out of range."""
    vae.clear_cache()
    latents = vae.post_quant_conv(latents)
    frames = []
    for index in range(latents.shape[2]):
        vae._conv_idx = [0]
        now = latents[:, :, index : index + 1]
        frames.append(vae.decoder(now, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=index == 0))
    vae.clear_cache()
    return torch.cat(frames, dim=2)


@torch.no_grad()
def set_latent_statistics(vae: AutoencoderKLWan, clips: int = 64) -> None:
    """Measure each latent channel's mean and spread over the world, and write them into the config."""
    random = np.random.default_rng(0)
    codes = [vae.encode(torch.from_numpy(batch(1, 17, random))).latent_dist.mode() for _ in range(clips)]
    stacked = torch.cat(codes)
    mean, std = stacked.mean(dim=(0, 2, 3, 4)), stacked.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


def make_faster() -> None:
    """Replace, in this process, two forward passes by cheaper ones that give the same result."""

    def norm(self: wan.WanRMS_norm, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-12) * self.gamma

    def convolve(self: wan.WanCausalConv3d, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        side, _, below, _, before, _ = self._padding
        if cache_x is not None and before:
            x, before = torch.cat([cache_x, x], dim=2), before - cache_x.shape[2]
        taps, step = self.kernel_size[0], self.stride[0]
        missing = min(before, taps - 1)
        made = (x.shape[2] + before - taps) // step + 1
        kernel = self.weight
        if made == 1 and missing:  # all slices of the kernel before the first frame see zeros
            kernel, taps, before = kernel[:, :, missing:], taps - missing, before - missing
        if before:
            x = functional.pad(x, (0, 0, 0, 0, before, 0))
        # A plane convolution over `taps` frames side by side: PyTorch's own over volumes is slow for small batches.
        beside = torch.cat([x[:, :, tap : tap + step * (made - 1) + 1 : step] for tap in range(taps)], dim=1)
        planes = beside.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        flat = kernel.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        result = functional.conv2d(planes, flat, self.bias, self.stride[1:], (below, side))
        return result.unflatten(0, (x.shape[0], made)).transpose(1, 2)

    wan.WanRMS_norm.forward = norm
    wan.WanCausalConv3d.forward = convolve


if __name__ == "__main__":
    main()
