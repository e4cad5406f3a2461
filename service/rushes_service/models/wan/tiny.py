"""A tiny Wan2.1 model with random weights: real classes, no network, about 1.5 MB.

For the demo and for tests. Its pictures mean nothing, but they are colourful, and change with seed, prompt, step count
and LoRA as those of the real model do.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from rushes.errors import ConfigError

MARKER = "rushes-tiny.json"
"""Names the recipe a directory was built with; its absence means that the directory is not ours to replace."""

RECIPE = 1
"""Raised when a change here makes different weights."""

TEXT_TOKENS = 512
"""Wan's attention takes this many text tokens for granted."""

TEXT_DIM = 32
IMAGE_TOKENS = 257
"""Of CLIP's vision tower: 16 x 16 patches and the class token."""

PICTURE_STD = 0.45
"""Spread of decoded pixels in -1..1: colourful, with little clipping."""

PROMPT_GAIN = 8.0
"""Sharpens cross-attention."""

FAINT = 0.01
"""Keeps pictures within the clamp of `decode` while their spread is measured."""

VELOCITY_STD = 1.5
"""Spread of the transformer's output: large enough to move the noise visibly in few steps."""


def build_tiny_wan(directory: Path, *, seed: int = 0) -> Path:
    """Write a complete `WanPipeline` directory with random weights to `directory` and return it.

    The weights depend on `seed` alone. A directory that is already complete is reused; it appears whole or not at all,
    so several processes may ask for it at once.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    recipe = json.dumps({"recipe": RECIPE, "seed": seed})
    return write_once(directory, recipe, lambda temporary: save(pipeline(seed), temporary))


def write_once(directory: Path, recipe: str, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a private directory that is then renamed to `directory`, unless the recipe's model is there.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    if is_complete(directory, recipe):
        return directory
    refuse_foreign(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        write(temporary)
        (temporary / MARKER).write_text(recipe)
        put_in_place(temporary, directory, recipe)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def is_complete(directory: Path, recipe: str) -> bool:
    """True if `directory` was built by this very recipe."""
    marker = directory / MARKER
    return marker.is_file() and marker.read_text() == recipe


def refuse_foreign(directory: Path) -> None:
    """Raise `ConfigError` if `directory` holds files that were not made here."""
    if directory.exists() and any(directory.iterdir()) and not (directory / MARKER).is_file():
        raise ConfigError(f"{directory} is not empty and is no tiny model: give another directory")


def put_in_place(temporary: Path, directory: Path, recipe: str) -> None:
    """Rename `temporary` to `directory`, replacing an older recipe; keep the other if one came first."""
    temporary.chmod(0o755)  # mkdtemp makes it private; a model directory is read by other users too
    if (directory / MARKER).is_file() and not is_complete(directory, recipe):
        shutil.rmtree(directory)
    try:
        temporary.rename(directory)
    except OSError:
        if not is_complete(directory, recipe):
            raise


def pipeline(seed: int) -> WanPipeline:
    """The tiny pipeline in float32 on the CPU; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WanPipeline(
            tokenizer=byte_tokenizer(),
            text_encoder=text_encoder(),
            transformer=transformer(),
            vae=vae(),
            scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        )


def save(pipe: WanPipeline, directory: Path) -> None:
    """Save `pipe`, naming a tokenizer class that every transformers version can load."""
    pipe.save_pretrained(directory)
    replace_text(directory / "model_index.json", "TokenizersBackend", "PreTrainedTokenizerFast")
    replace_text(directory / "tokenizer" / "tokenizer_config.json", "TokenizersBackend", "PreTrainedTokenizerFast")


def replace_text(path: Path, old: str, new: str) -> None:
    """Replace `old` by `new` in a text file."""
    path.write_text(path.read_text().replace(old, new))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte, T5's special tokens, an end token after each text."""
    specials = ["<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(specials + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = [("</s>", vocabulary["</s>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=end)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_TOKENS,
    )


def text_encoder() -> UMT5EncoderModel:
    """Two UMT5 layers over the bytes of the prompt."""
    config = UMT5Config(
        vocab_size=264, d_model=TEXT_DIM, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1
    )
    return UMT5EncoderModel(config).eval().requires_grad_(False)


@torch.no_grad()
def transformer(in_channels: int = 16, image_dim: int | None = None, layers: int = 2) -> WanTransformer3DModel:
    """Blocks of 64 channels, scaled so that the velocity it predicts is as large as the noise.

    With `image_dim` its cross-attention sees image tokens of that width, too.
    """
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=16,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=128,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
        image_dim=image_dim,
        added_kv_proj_dim=None if image_dim is None else 64,
    ).eval()
    model.requires_grad_(False)
    for block in model.blocks:
        # A prompt is a few tokens among 512: without sharp attention to them it would hardly show.
        block.attn2.norm_k.weight *= PROMPT_GAIN
    inputs = [torch.randn(1, in_channels, 3, 8, 8), torch.tensor([500]), torch.randn(1, TEXT_TOKENS, TEXT_DIM)]
    if image_dim is not None:
        inputs.append(torch.randn(1, IMAGE_TOKENS, image_dim))
    rescale(model.proj_out, VELOCITY_STD / model(*inputs).sample.std())
    return model


@torch.no_grad()
def vae() -> AutoencoderKLWan:
    """Wan2.1's VAE layout (16 channels, 8 times smaller in space, 4 in time), four channels wide at its finest."""
    model = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, attn_scales=[]).eval()
    model.requires_grad_(False)
    for layer in (*spatial_convolutions(model.decoder), model.decoder.conv_out):
        blur(layer)
    mean = torch.tensor(model.config.latents_mean).view(1, 16, 1, 1, 1)
    std = torch.tensor(model.config.latents_std).view(1, 16, 1, 1, 1)
    last = model.decoder.conv_out
    rescale(last, FAINT)
    picture = model.decode(torch.randn(1, 16, 3, 16, 16) * std + mean).sample
    # Centred and stretched by channel: a picture of one colour would hide what changes in it.
    stretch = PICTURE_STD / picture.std(dim=(0, 2, 3, 4))
    last.bias.copy_((last.bias - picture.mean(dim=(0, 2, 3, 4))) * stretch)
    last.weight *= stretch.view(3, 1, 1, 1, 1)
    return model


def spatial_convolutions(decoder: torch.nn.Module) -> list[torch.nn.Conv2d]:
    """The convolutions that follow each enlargement (the only plain 3x3 ones of the decoder)."""
    return [
        module for module in decoder.modules() if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3)
    ]


def blur(layer: torch.nn.Module) -> None:
    """Make a convolution low-pass in space, so that pictures show shapes instead of noise."""
    smooth = layer.weight.mean(dim=(-2, -1), keepdim=True).expand_as(layer.weight)
    layer.weight.copy_(smooth)


def rescale(layer: torch.nn.Module, factor: torch.Tensor | float) -> None:
    """Multiply a last layer's weight and bias, hence its output, by `factor`."""
    layer.weight *= factor
    layer.bias *= factor
