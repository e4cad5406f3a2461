"""From the latents that a pipeline gives its VAE to pixels: size, tiles, and the pipeline's own last steps."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch

from rushes.errors import ModelError
from rushes.wire.jobs import VaeOptions
from rushes_service.models.generic.options import spatial_ratio, temporal_ratio
from rushes_service.models.vae.kl import decode_kl, plan_kl_tiles
from rushes_service.models.vae.tiles import TilePlan, plan_tiles

WHOLE_GROUPS = ("AutoencoderKLAllegro",)
"""VAEs of which every latent frame is as many frames; of others the first one is a single frame."""

NOT_PASSED = ("return_dict", "generator")
"""Arguments of `decode` that say nothing of its result."""


@dataclass(frozen=True)
class DecodeCall:
    """What a pipeline passed to its VAE beside the latents, and the size its picture is then scaled to, if any."""

    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    scaled_to: tuple[int, int] | None = None
    """Width and height in pixels."""


def decode_call(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[torch.Tensor, DecodeCall]:
    """The latents in a call of `decode`, and the rest of it."""
    rest = {name: value for name, value in keywords.items() if name not in NOT_PASSED}
    latents = arguments[0] if arguments else rest.pop("z")
    return latents, DecodeCall(arguments[1:], rest)


def size_of(pipe: Any, latents: torch.Tensor) -> tuple[int, int, int]:
    """Width, height and frames of what latents [frames, C, h, w] or [1, C, T, h, w] become."""
    height, width = (size * spatial_ratio(pipe) for size in latents.shape[-2:])
    if latents.ndim == 4:
        return width, height, len(latents)
    count, ratio = latents.shape[2], temporal_ratio(pipe)
    whole = type(pipe.vae).__name__ in WHOLE_GROUPS
    return width, height, count * ratio if whole else (count - 1) * ratio + 1


def tiling_warning(vae: Any, options: VaeOptions, width: int, height: int) -> str | None:
    """What `--vae_tiling` does to a picture of this size; None if nothing."""
    if not (tiles := planned(vae, options, width, height, 1)):
        return None
    if not hasattr(vae, "enable_tiling"):
        return f"--vae_tiling is ignored: a {type(vae).__name__} has none"
    if isinstance(vae, diffusers.AutoencoderKL) or strides(vae):
        return f"decoded in tiles of {tiles.size} pixels: approximate at their seams"
    return f"decoded in the own tiles of its {type(vae).__name__}: approximate at their seams"


def planned(vae: Any, options: VaeOptions, width: int, height: int, ratio: int) -> TilePlan | None:
    """The tiling that `options` ask for."""
    if isinstance(vae, diffusers.AutoencoderKL):
        return plan_kl_tiles(options, width, height)
    return plan_tiles(options, width, height, 4 * max(ratio, 8))


def strides(vae: Any) -> bool:
    """True for a VAE that can be told how large its tiles are and how far apart."""
    known = inspect.signature(vae.enable_tiling).parameters
    return {"tile_sample_min_height", "tile_sample_stride_height"} <= known.keys()


@contextlib.contextmanager
def tiled(vae: Any, tiles: TilePlan) -> Iterator[None]:
    """Inside, the VAE decodes in tiles; afterwards it is as it was."""
    before = {name: value for name, value in vars(vae).items() if name.startswith(("tile_", "use_tiling"))}
    sizes = {"min": tiles.size, "stride": tiles.stride}
    given = {f"tile_sample_{what}_{side}": size for what, size in sizes.items() for side in ("height", "width")}
    vae.enable_tiling(**(given if strides(vae) else {}))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


def frames_of(
    pipe: Any, vae: Any, latents: torch.Tensor, call: DecodeCall, options: VaeOptions
) -> Iterator[torch.Tensor]:
    """Frames [N, 3, H, W] in 0..1 as the pipeline makes them of its VAE's output, a few at a time where it can.

    Args:
        vae: that of the pipeline, or its copy on another device.

    Raises:
        ModelError: the VAE makes another size in tiles.
    """
    width, height, count = size_of(pipe, latents)
    made = 0
    for part in parts_of(pipe, latents):
        for frames in decoded(pipe, vae, part, call, options):
            made += len(frames)
            if frames.shape[-2:] != (height, width):
                found = f"{frames.shape[-1]} x {frames.shape[-2]}"
                raise ModelError(f"the {type(vae).__name__} made {found} pixels instead of {width} x {height}")
            yield finished(pipe, frames, call)
    if made != count:
        raise ModelError(f"the {type(vae).__name__} made {made} frames instead of {count}")


def parts_of(pipe: Any, latents: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Latents that the VAE decodes together: for clips of a VAE of pictures, as many as the pipeline's own default."""
    parameter = inspect.signature(type(pipe).__call__).parameters.get("decode_chunk_size")
    size = parameter.default if parameter is not None else None
    return latents.split(size) if latents.ndim == 4 and isinstance(size, int) else (latents,)


def decoded(
    pipe: Any, vae: Any, latents: torch.Tensor, call: DecodeCall, options: VaeOptions
) -> Iterator[torch.Tensor]:
    """What the VAE makes of latents, [N, 3, H, W] in about -1..1."""
    width, height, _ = size_of(pipe, latents)
    tiles = planned(vae, options, width, height, spatial_ratio(pipe)) if hasattr(vae, "enable_tiling") else None
    if tiles and isinstance(vae, diffusers.AutoencoderKL):
        pixels = decode_kl(vae, latents.to(vae.device), options)
    else:
        arguments = [moved(value, vae.device) for value in (latents, *call.arguments)]
        keywords = {name: moved(value, vae.device) for name, value in call.keywords.items()}
        with tiled(vae, tiles) if tiles else contextlib.nullcontext():
            pixels = vae.decode(*arguments, return_dict=False, **keywords)[0]
    yield pixels if pixels.ndim == 4 else pixels[0].transpose(0, 1)


def moved(value: Any, device: torch.device) -> Any:
    """`value` on `device`, if it is a tensor."""
    return value.to(device) if isinstance(value, torch.Tensor) else value


def finished(pipe: Any, frames: torch.Tensor, call: DecodeCall) -> torch.Tensor:
    """What the pipeline does with its VAE's output: bring it to 0..1, and to the size that was asked for."""
    processor = getattr(pipe, "video_processor", None) or pipe.image_processor
    if call.scaled_to is not None:
        frames = processor.resize_and_crop_tensor(frames, *call.scaled_to)
    return processor.postprocess(frames, output_type="pt").float()
