"""What the scripts of musubi-tuner are run with: flags, and a data set of two items in its own cache format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

Shape = tuple[int, ...]

TOKENS = 7
"""Of a caption."""

LORA = "--network_module networks.{} --network_dim 4 --network_alpha 4"
BF16 = "--mixed_precision bf16"
PICTURE = "--w 32 --h 32"


@dataclass(frozen=True)
class Script:
    """A training script, and the family that it is sampled as.

    `architecture` is the trainer's own short name in the names of cached files; `latents` and `texts` are the tensors
    of an item under the names that they have there, without their precision.
    """

    name: str
    family: str
    architecture: str
    flags: str
    latents: Mapping[str, Shape]
    texts: Mapping[str, Shape]
    frames: int = 0
    """Of a clip; 0 for a data set of pictures."""

    prompt: str = PICTURE
    """Options of the prompt; `{input}` is a picture."""

    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Tensors that count up from 0, of so many numbers."""

    @property
    def id(self) -> str:
        return f"{self.name}-{self.family}"


WAN = Script(
    "wan_train_network",
    "wan2.1-t2v",
    "wan",
    f"--task t2v-1.3B --mixed_precision no {LORA.format('lora_wan')}",
    {"latents_3x8x8": (16, 3, 8, 8)},
    {"varlen_t5": (TOKENS, 32)},
    frames=9,
)
HUNYUAN = Script(
    "hv_train_network",
    "hunyuan-video",
    "hv",
    f"{BF16} {LORA.format('lora')}",
    {"latents_3x8x8": (16, 3, 8, 8)},
    {"llm": (TOKENS, 32), "llm_mask": (TOKENS,), "clipL": (16,)},
    frames=9,
    prompt=f"{PICTURE} --f 5",
)
QWEN = Script(
    "qwen_image_train_network",
    "qwen-image",
    "qi",
    f"{BF16} {LORA.format('lora_qwen_image')}",
    {"latents_1x8x8": (16, 1, 8, 8)},
    {"varlen_vl_embed": (TOKENS, 32)},
)
ZIMAGE = Script(
    "zimage_train_network",
    "z-image",
    "zi",
    f"{BF16} {LORA.format('lora_zimage')}",
    {"latents_1x8x8": (16, 8, 8)},
    {"varlen_llm_embed": (TOKENS, 32)},
)

SCRIPTS = (
    Script(
        WAN.name,
        "wan2.2-i2v-a14b",
        "wan",
        f"--task i2v-A14B {BF16} {LORA.format('lora_wan')}",
        {**WAN.latents, "latents_image_3x8x8": (20, 3, 8, 8)},
        WAN.texts,
        frames=9,
        prompt=f"{PICTURE} --f 5 --i {{input}}",
    ),
    HUNYUAN,
    Script(
        "fpack_train_network",
        "framepack",
        "fp",
        f"--latent_window_size 2 {BF16} {LORA.format('lora_framepack')}",
        {
            "latents_9x8x8": (16, 9, 8, 8),
            "latents_clean_9x8x8": (16, 2, 8, 8),
            "latents_clean_2x_9x8x8": (16, 2, 8, 8),
            "latents_clean_4x_9x8x8": (16, 16, 8, 8),
            "image_embeddings": (16, 16),
        },
        {"llama_vec": (TOKENS, 32), "llama_attention_mask": (TOKENS,), "clip_l_pooler": (16,)},
        frames=33,
        prompt=f"{PICTURE} --i {{input}}",
        counts={
            "latent_indices": 9,
            "clean_latent_indices": 2,
            "clean_latent_2x_indices": 2,
            "clean_latent_4x_indices": 16,
        },
    ),
    Script(
        "flux_kontext_train_network",
        "flux1-kontext",
        "fk",
        f"{BF16} {LORA.format('lora_flux')}",
        {"latents_1x8x8": (16, 8, 8), "latents_control_1x8x8": (16, 8, 8)},
        {"t5_vec": (TOKENS, 32), "clip_l_pooler": (32,)},
        prompt=f"{PICTURE} --ci {{input}}",
    ),
    Script(
        "flux_2_train_network",
        "flux2-klein",
        "f2k4b",
        f"--model_version klein-base-4b {BF16} {LORA.format('lora_flux_2')}",
        {"latents_4x4": (128, 4, 4)},
        {"ctx_vec": (TOKENS, 48)},
    ),
    Script(
        "flux_2_train_network",
        "flux2-dev",
        "f2d",
        f"{BF16} {LORA.format('lora_flux_2')}",
        {"latents_4x4": (128, 4, 4), "latents_control_0_4x4": (128, 4, 4)},
        {"ctx_vec": (TOKENS, 48)},
        prompt=f"{PICTURE} --ci {{input}}",
    ),
    QWEN,
    Script(
        QWEN.name,
        "qwen-image-edit",
        "qie",
        f"--edit_plus {QWEN.flags}",
        {**QWEN.latents, "latents_control_0_1x8x8": (16, 1, 8, 8)},
        QWEN.texts,
        prompt=f"{PICTURE} --ci {{input}}",
    ),
    ZIMAGE,
    Script(
        "hv_1_5_train_network",
        "hunyuan-video-1.5-t2v",
        "hv15",
        # Layer norms of mixed precision are for GPUs alone.
        f"--dit_dtype float32 --mixed_precision no {LORA.format('lora_hv_1_5')}",
        {"latents_3x4x4": (8, 3, 4, 4)},
        {"varlen_vl_embed": (TOKENS, 32), "varlen_byt5_embed": (TOKENS, 16)},
        frames=9,
        prompt=f"{PICTURE} --f 5",
    ),
)

FINE_TUNES = (
    Script("qwen_image_train", QWEN.family, QWEN.architecture, BF16, QWEN.latents, QWEN.texts),
    Script("zimage_train", ZIMAGE.family, ZIMAGE.architecture, BF16, ZIMAGE.latents, ZIMAGE.texts),
)


def write_dataset(script: Script, directory: Path) -> Path:
    """Two items as musubi-tuner's caches hold them, and the file that describes them, which is returned."""
    cache = directory / "cache"
    cache.mkdir()
    (directory / "data").mkdir()
    generator = torch.Generator().manual_seed(0)
    clip = f"_00000-{script.frames:03d}" if script.frames else ""
    for item in ("a", "b"):
        numbers = {f"{name}_int64": torch.arange(count) for name, count in script.counts.items()}
        latents = {f"{name}_float32": torch.randn(shape, generator=generator) for name, shape in script.latents.items()}
        about = {"format_version": "1.0.1", "width": "64", "height": "64", "frame_count": str(script.frames)}
        save_file({**latents, **numbers}, cache / f"{item}{clip}_0064x0064_{script.architecture}.safetensors", about)
        texts = {
            name if name.endswith("_mask") else f"{name}_float32": torch.ones(shape, dtype=torch.bool)
            if name.endswith("_mask")
            else torch.randn(shape, generator=generator)
            for name, shape in script.texts.items()
        }
        save_file(texts, cache / f"{item}_{script.architecture}_te.safetensors", {"caption1": "a ball"})
    kind = "video" if script.frames else "image"
    config = directory / "data.toml"
    config.write_text(
        "[general]\nresolution = [64, 64]\nbatch_size = 1\n[[datasets]]\n"
        f'{kind}_directory = "{directory}/data"\ncache_directory = "{cache}"\n'
        + (f"target_frames = [{script.frames}]\n" if script.frames else "")
    )
    return config


def write_prompt(script: Script, directory: Path) -> Path:
    """A prompt file, and the picture that it names."""
    picture = directory / "input.png"
    Image.radial_gradient("L").convert("RGB").resize((48, 48)).save(picture)
    path = directory / "prompt.txt"
    path.write_text(f"a red ball {script.prompt.format(input=picture)} --s 2 --d 1\n")
    return path
