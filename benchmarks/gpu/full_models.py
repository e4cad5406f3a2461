"""Models of full size with random weights, as files in diffusers' layout: Wan2.1 1.3B and 14B, FLUX.1 Kontext."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kit import DEVICE, Kit
from rushes_service.models.tiny import build_tiny

STD = 0.02
SMALL_TEXT_WIDTH, TEXT_WIDTH = 64, 4096
SMALL_WAN = {
    "num_layers": 2,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "ffn_dim": 256,
    "text_dim": SMALL_TEXT_WIDTH,
}
SMALL_FLUX = {
    "num_layers": 1,
    "num_single_layers": 1,
    "num_attention_heads": 2,
    "joint_attention_dim": SMALL_TEXT_WIDTH,
}


@dataclass(frozen=True)
class FullModel:
    """A model and the sample to measure. `text` are embeddings by their name in the cache."""

    name: str
    family: str
    transformer: Callable[[bool], nn.Module]
    vae: Callable[[bool], nn.Module]
    width: int
    height: int
    frames: int
    steps: int
    text: Callable[[bool], dict[str, torch.Tensor]]
    options: dict[str, Any] = field(default_factory=dict)

    def shape(self, small: bool) -> dict[str, int]:
        """Pixels and frames of the sample."""
        if small:
            return {"width": 32, "height": 32, "frames": min(self.frames, 5)}
        return {"width": self.width, "height": self.height, "frames": self.frames}


def wan(**size: int) -> Callable[[bool], nn.Module]:
    def build(small: bool) -> nn.Module:
        from diffusers import WanTransformer3DModel

        return WanTransformer3DModel(**(SMALL_WAN if small else size))

    return build


def wan_vae(small: bool) -> nn.Module:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(**({"base_dim": 8, "num_res_blocks": 1} if small else {}))


def flux(small: bool) -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(guidance_embeds=True, **(SMALL_FLUX if small else {}))


def flux_vae(small: bool) -> nn.Module:
    from diffusers import AutoencoderKL

    widths = [16, 16, 32, 32] if small else [128, 256, 512, 512]
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=16 if small else 32,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1159,
        scaling_factor=0.3611,
    )


def wan_text(small: bool) -> dict[str, torch.Tensor]:
    return {"embeds": torch.randn(1, 512, SMALL_TEXT_WIDTH if small else TEXT_WIDTH).bfloat16()}


def flux_text(small: bool) -> dict[str, torch.Tensor]:
    width = SMALL_TEXT_WIDTH if small else TEXT_WIDTH
    embeds = {"prompt_embeds": torch.randn(1, 512, width), "pooled_prompt_embeds": torch.randn(1, 768)}
    return {name: value.bfloat16() for name, value in embeds.items()}


WAN_SIZES = {
    "1.3B": {"num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960},
    "14B": {"num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824},
}
WAN_OPTIONS = {"prompt": "a", "negative_prompt": "b", "cfg_scale": 5.0}
FULL_MODELS = {
    "wan 1.3B": FullModel(
        "wan 1.3B", "wan2.1-t2v", wan(**WAN_SIZES["1.3B"]), wan_vae, 832, 480, 81, 4, wan_text, WAN_OPTIONS
    ),
    "wan 14B": FullModel(
        "wan 14B", "wan2.1-t2v", wan(**WAN_SIZES["14B"]), wan_vae, 832, 480, 33, 4, wan_text, WAN_OPTIONS
    ),
    "flux": FullModel("flux", "flux1-kontext", flux, flux_vae, 1024, 1024, 1, 8, flux_text, {"prompt": "a"}),
}


@torch.no_grad()
def random_weights(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Numbers of the size of real ones in every matrix, in `dtype` but for what diffusers keeps in float32."""
    kept = tuple(getattr(module, "_keep_in_fp32_modules", None) or ())
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, STD)
        if not any(word in name.split(".") for word in kept):
            parameter.data = parameter.data.to(dtype)
    return module.requires_grad_(False).eval()


def build(model: FullModel, small: bool) -> tuple[nn.Module, nn.Module]:
    """Transformer in bfloat16 and VAE in float32, on the device."""
    with torch.device(DEVICE):
        transformer = random_weights(model.transformer(small), torch.bfloat16)
        vae = random_weights(model.vae(small), torch.float32)
    return transformer, vae


def write(kit: Kit, model: FullModel, transformer: Any, vae: Any) -> Path:
    """The model as files; text encoders are the tiny model's, and never loaded: their embeddings are in the cache."""
    directory = kit.home / "full" / model.name.replace(" ", "-")
    shutil.copytree(build_tiny(model.family, kit.home / "models" / f"tiny-{model.family}"), directory)
    for part, module in (("transformer", transformer), ("vae", vae)):
        shutil.rmtree(directory / part)
        module.save_pretrained(directory / part)
    return directory
