"""What tiny models with random weights are made of: directories written once, a byte tokenizer, scaled layers.

Their pictures mean nothing, but they are colourful, and change with seed, prompt, step count and LoRA as those of
the real models do.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rushes.errors import ConfigError

MARKER = "rushes-tiny.json"
"""Names the recipe a directory was built with; its absence means that the directory is not ours to replace."""

PICTURE_STD = 0.45
"""Spread of decoded pixels in -1..1: colourful, with little clipping."""

FAINT = 0.01
"""Scale of a decoder's last layer that keeps pictures within the clamp of `decode` while their spread is measured."""

VELOCITY_STD = 1.5
"""Spread of the transformer's output: large enough to move the noise visibly in few steps."""


def build_once(
    directory: Path,
    recipe: str,
    make: Callable[[], DiffusionPipeline],
    *,
    seed: int = 0,
    after: Callable[[Path], object] = lambda _directory: None,
) -> Path:
    """Write the pipeline that `make` makes to `directory`, unless the recipe's model is there, and return it.

    A directory that is already complete is reused. It appears whole or not at all, so several processes may ask for it
    at once. The caller's random state is left alone.

    Args:
        recipe: names everything that the weights depend on.
        after: changes the files that were saved.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """

    def write(temporary: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            save(make(), temporary)
        after(temporary)

    return write_once(directory, recipe, write)


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


def save(pipe: DiffusionPipeline, directory: Path) -> None:
    """Save `pipe`, naming a tokenizer class that every transformers version can load."""
    pipe.save_pretrained(directory)
    for file in (directory / "model_index.json", *directory.glob("tokenizer*/tokenizer_config.json")):
        replace_text(file, "TokenizersBackend", "PreTrainedTokenizerFast")


def replace_text(path: Path, old: str, new: str) -> None:
    """Replace `old` by `new` in a text file."""
    path.write_text(path.read_text().replace(old, new))


def byte_tokenizer(max_length: int = 512) -> PreTrainedTokenizerFast:
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
        model_max_length=max_length,
    )


def blur(layer: torch.nn.Module) -> None:
    """Make a convolution low-pass in space, so that pictures show shapes instead of noise."""
    smooth = layer.weight.mean(dim=(-2, -1), keepdim=True).expand_as(layer.weight)
    layer.weight.copy_(smooth)


def rescale(layer: torch.nn.Module, factor: torch.Tensor | float) -> None:
    """Multiply a last layer's weight and bias, hence its output, by `factor`."""
    layer.weight *= factor
    layer.bias *= factor


def stretch_colours(layer: torch.nn.Module, picture: torch.Tensor) -> None:
    """Centre and stretch what a decoder's last layer makes, by channel, given a `picture` [1, 3, ...] that it made.

    A picture of one colour would hide what changes in it.
    """
    others = [0, *range(2, picture.ndim)]
    stretch = PICTURE_STD / picture.std(dim=others)
    layer.bias.copy_((layer.bias - picture.mean(dim=others)) * stretch)
    layer.weight *= stretch.view(-1, *[1] * (layer.weight.ndim - 1))


@torch.no_grad()
def image_vae() -> AutoencoderKL:
    """FLUX's VAE layout (16 channels, 8 times smaller), eight channels wide throughout."""
    widths = [8, 8, 8, 8]
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1159,
        scaling_factor=0.3611,
    ).eval()
    model.requires_grad_(False)
    for upsampler in (block.upsamplers[0] for block in model.decoder.up_blocks if block.upsamplers):
        blur(upsampler.conv)
    last = model.decoder.conv_out
    blur(last)
    rescale(last, FAINT)
    picture = model.decode(torch.randn(1, 16, 16, 16) / model.config.scaling_factor).sample
    stretch_colours(last, picture)
    return model
