"""Trains the world's transformer and text encoder from nothing, over a finished VAE.

    python examples/tiny_world/text_to_video.py --work work/

Stop it at any time and start it again: it goes on where the last checkpoint was written.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from muon import Both, Clock, join, schedule
from torch import distributed, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel
from vae import SAVE_EVERY_S, make_faster
from words import MODEL_LENGTH, caption, scenes, tokenizer

from rushes_service.demo.world import FRAMES, Scene, draw

TEXT_DIM = 64
TOKENS = 16
"""Of a caption at most; the rest of Wan's 512 is padding, which is computed once instead of each time."""

MUON_LR, ADAM_LR = 0.015, 2e-3
NOT_HIDDEN = ("shared", "relative_attention_bias", "patch_embedding", "proj_out")
"""Matrices at the edges of the model, which Muon is not meant for."""

EMA = 0.995
SHIFT = 3.0
UNIFORM = 0.25
"""Share of noise levels that are uniform; the others are logit-normal."""

DROPPED = 0.1
"""Share of captions left out, for classifier-free guidance."""

STILLS_EVERY = 4
"""One step in so many is on single pictures."""


def main() -> None:
    """Train for the given minutes, or what is left of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="where vae.py has put its VAE")
    parser.add_argument("--minutes", type=float, default=35)
    parser.add_argument("--clips", type=int, default=2400, help="clips encoded beforehand, by all processes together")
    parser.add_argument("--batch", type=int, default=16, help="batch size of each process")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rank = join()
    torch.manual_seed(0)
    make_faster()
    model = TextToVideo()
    torch.manual_seed(rank)
    vae = AutoencoderKLWan.from_pretrained(args.work / "vae").eval()
    share = args.clips // (distributed.get_world_size() if distributed.is_initialized() else 1)
    data = Data(vae, share, np.random.default_rng(rank))
    average = train(model, data, args.work / "text_to_video.pt", args.minutes, args.batch)
    if rank == 0:
        model.load_state_dict(average)
        model.transformer.save_pretrained(args.work / "transformer")
        model.text_encoder.save_pretrained(args.work / "text_encoder")


class TextToVideo(nn.Module):
    """A text encoder and a transformer that learn together."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer: PreTrainedTokenizerFast = tokenizer()
        self.text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(self.tokenizer),
                d_model=TEXT_DIM,
                d_kv=16,
                d_ff=128,
                num_layers=2,
                num_heads=4,
                dropout_rate=0.0,
                pad_token_id=0,
                eos_token_id=1,
            )
        )
        self.transformer = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=4,
            attention_head_dim=32,
            in_channels=16,
            out_channels=16,
            text_dim=TEXT_DIM,
            freq_dim=128,
            ffn_dim=512,
            num_layers=6,
        )

    def forward(self, noisy: torch.Tensor, level: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """Velocity [B, 16, T, h, w] of `noisy` latents at noise levels `level` [B], 0..1."""
        words = self.tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        mask = words.attention_mask
        embeds = self.text_encoder(words.input_ids, mask).last_hidden_state * mask[..., None]
        with_padding = nn.functional.pad(embeds, (0, 0, 0, 1))
        bias = nn.functional.pad(torch.where(mask.bool(), 0.0, -torch.inf), (0, 1))
        # All padding is alike, so one token of the weight of all of them does: softmax adds log(count).
        bias[:, -1] = (MODEL_LENGTH - mask.sum(dim=1)).log()
        for block in self.transformer.blocks:
            block.attn2.bias = bias[:, None, None]
        return self.transformer(noisy, level * 1000, with_padding).sample


def attend_with_bias(model: TextToVideo) -> None:
    """Let the cross-attentions add the bias that `forward` left on them."""
    for block in model.transformer.blocks:
        plain = block.attn2.processor

        def biased(attn: nn.Module, x: torch.Tensor, text: torch.Tensor, *_: object, plain: object = plain) -> object:
            return plain(attn, x, text, attention_mask=attn.bias)

        block.attn2.processor = biased


class Data:
    """Scenes and their normalised latents, encoded once."""

    @torch.no_grad()
    def __init__(self, vae: AutoencoderKLWan, clips: int, random: np.random.Generator) -> None:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
        self.random = random
        shown = scenes()[0]
        self.sets: list[tuple[list[Scene], torch.Tensor]] = []
        for frames, count in ((FRAMES, clips), (1, clips // 2)):
            chosen = [shown[index] for index in random.integers(len(shown), size=count)]
            codes = []
            for start in range(0, count, 8):
                pictures = torch.from_numpy(draw(chosen[start : start + 8], frames, random))
                codes.append((vae.encode(pictures).latent_dist.mode() - mean) / std)
                if start % 400 == 0:
                    print(f"{start} of {count} clips of {frames} frames encoded", flush=True)
            self.sets.append((chosen, torch.cat(codes)))

    def batch(self, count: int, stills: bool) -> tuple[torch.Tensor, list[str]]:
        """Latents [count, 16, T, h, w] and captions."""
        chosen, latents = self.sets[stills]
        which = self.random.integers(len(chosen), size=count)
        captions = [
            "" if self.random.random() < DROPPED else caption(chosen[index], self.random, stills) for index in which
        ]
        return latents[torch.from_numpy(which)], captions


def noise_levels(count: int) -> torch.Tensor:
    """Noise levels [count] in 0..1, shifted as sampling will shift them."""
    level = torch.where(torch.rand(count) < UNIFORM, torch.rand(count), torch.randn(count).sigmoid())
    return SHIFT * level / (1 + (SHIFT - 1) * level)


def flow_matching_loss(model: TextToVideo, latents: torch.Tensor, captions: list[str]) -> torch.Tensor:
    """Mean squared error of the velocity from latents [B, 16, T, h, w] to noise."""
    noise, level = torch.randn_like(latents), noise_levels(len(latents))
    mixed = torch.lerp(latents, noise, level.view(-1, 1, 1, 1, 1))
    return nn.functional.mse_loss(model(mixed, level, captions), noise - latents)


def train(model: TextToVideo, data: Data, checkpoint: Path, minutes: float, count: int) -> dict[str, torch.Tensor]:
    """Train; the moving average of the weights."""
    optimizer = Both(model, MUON_LR, ADAM_LR, plain=NOT_HIDDEN)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    step, spent, smooth = 0, 0.0, math.nan
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average, step, spent = saved["average"], saved["step"], saved["spent"]
    attend_with_bias(model)
    clock, saved_at = Clock(minutes, spent), spent
    while (spent := clock.spent()) < 60 * minutes:
        stills = step % STILLS_EVERY == 0
        loss = flow_matching_loss(model, *data.batch(2 * count if stills else count, stills))
        loss.backward()
        optimizer.step(schedule(spent / (60 * minutes)))
        step += 1
        blend_into(average, model, min(EMA, step / (step + 10)))
        if not stills:
            smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step}, {spent:.0f} s, loss {smooth:.4f}", flush=True)
        if spent - saved_at > SAVE_EVERY_S:
            saved_at = spent
            save(model, optimizer, average, checkpoint, step, spent)
    save(model, optimizer, average, checkpoint, step, 60 * minutes)
    return average


@torch.no_grad()
def blend_into(average: dict[str, torch.Tensor], model: nn.Module, keep: float) -> None:
    """Move `average` towards the weights of `model`."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - keep)


def save(
    model: nn.Module, optimizer: Both, average: dict[str, torch.Tensor], path: Path, step: int, spent: float
) -> None:
    """Write a checkpoint, whole or not at all; of several processes only the first does."""
    if distributed.is_initialized() and distributed.get_rank():
        return
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average,
        "step": step,
        "spent": spent,
    }
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    main()
