"""HunyuanVideo's VAE: exact in time, in strips without a difference, in tiles of every size."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders import autoencoder_kl_hunyuan_video
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import HunyuanVideoCausalConv3d

import engine_support  # noqa: F401  # one thread, no network
from rushes.wire.jobs import VaeOptions
from rushes_service.models.hunyuan import decode, decode_attention
from rushes_service.models.hunyuan.decode import configured, decode_hunyuan, encode_hunyuan
from rushes_service.models.hunyuan.tiny import vae as tiny_vae

EXACT = VaeOptions()


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLHunyuanVideo:
    torch.manual_seed(0)
    return tiny_vae()


def latents(frames: int, height: int = 6, width: int = 8) -> torch.Tensor:
    return torch.randn(1, 16, frames, height, width, generator=torch.Generator().manual_seed(frames))


def pixels(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, 1, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_long_clip_is_decoded_whole(vae):
    z = latents(6)
    features = vae.post_quant_conv(z)
    assert torch.equal(decode_hunyuan(vae, z, EXACT), vae.decoder(features))
    assert decode_hunyuan(vae, z, EXACT).shape == (1, 3, 21, 48, 64)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_features_are_enlarged_frame_by_frame_without_a_difference(vae, frames, monkeypatch):
    wanted = vae.decoder(vae.post_quant_conv(latents(frames)))
    enlarged: list[tuple[int, ...]] = []
    real = torch.nn.functional.interpolate

    def interpolate(features: torch.Tensor, **options: object) -> torch.Tensor:
        enlarged.append(tuple(features.shape))
        return real(features, **options)

    monkeypatch.setattr(torch.nn.functional, "interpolate", interpolate)
    monkeypatch.setattr(decode, "MOST_NUMBERS", 0)
    assert torch.equal(decode_hunyuan(vae, latents(frames), EXACT), wanted)
    assert enlarged
    assert all(len(shape) == 4 for shape in enlarged)  # one frame each: [B, C, H, W]


@pytest.mark.parametrize("columns", [1, 3, 7, 8, 16, 17, 40, 4096])
def test_strips_change_no_bit_of_a_decoded_clip(vae, columns):
    z = latents(3, 5, 7)
    assert torch.equal(decode_hunyuan(vae, z, VaeOptions(chunk_size=columns)), decode_hunyuan(vae, z, EXACT))


@pytest.mark.parametrize("columns", [1, 3, 8, 16])
def test_strips_change_no_encoded_picture(vae, columns):
    x = pixels(40, 56)
    found = encode_hunyuan(vae, x, VaeOptions(chunk_size=columns)).parameters
    assert torch.allclose(found, encode_hunyuan(vae, x, EXACT).parameters, atol=1e-5)


def test_no_convolution_ever_sees_more_than_a_strip(vae):
    seen = []
    layers = [module.conv for module in vae.decoder.modules() if isinstance(module, HunyuanVideoCausalConv3d)]
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1])) for layer in layers]
    decode_hunyuan(vae, latents(2), VaeOptions(chunk_size=16))
    for hook in hooks:
        hook.remove()
    assert max(seen) == 16 + 2


@pytest.mark.parametrize("size", [16, 24, 32, 40, 48, 100, 256])
def test_every_tile_size_gives_pictures_of_the_right_size(vae, size):
    options = VaeOptions(spatial_tile_sample_min_size=size)
    assert decode_hunyuan(vae, latents(2), options).shape == (1, 3, 5, 48, 64)
    assert encode_hunyuan(vae, pixels(48, 64), options).parameters.shape == (1, 32, 1, 6, 8)


@pytest.mark.parametrize(("size", "stride"), [(32, 24), (40, 24), (48, 32)])
def test_a_tile_is_its_part_of_the_latents_decoded_alone(vae, size, stride):
    z = latents(1, 8, 12)
    tiled = decode_hunyuan(vae, z, VaeOptions(spatial_tile_sample_min_size=size))
    alone = decode_hunyuan(vae, z[..., : size // 8, : size // 8].contiguous(), EXACT)
    assert torch.equal(tiled[..., :stride, :stride], alone[..., :stride, :stride])


def test_large_clips_are_attended_frame_by_frame_with_the_same_result(vae, monkeypatch):
    z = latents(4)
    wanted = decode_hunyuan(vae, z, EXACT)
    made = []
    original = autoencoder_kl_hunyuan_video.prepare_causal_attention_mask
    monkeypatch.setattr(
        autoencoder_kl_hunyuan_video,
        "prepare_causal_attention_mask",
        lambda *arguments, **options: made.append(arguments) or original(*arguments, **options),
    )
    monkeypatch.setattr(decode_attention, "MASKED_POSITIONS", 100)
    assert torch.allclose(decode_hunyuan(vae, z, EXACT), wanted, atol=1e-5)
    assert not made


def test_nothing_of_the_options_stays_in_the_vae(vae):
    z = latents(2)
    wanted = decode_hunyuan(vae, z, EXACT)
    decode_hunyuan(vae, z, VaeOptions(chunk_size=8, spatial_tile_sample_min_size=32))
    assert torch.equal(decode_hunyuan(vae, z, EXACT), wanted)
    with pytest.raises(RuntimeError, match="stop"), configured(vae, None, 8):
        raise RuntimeError("stop")
    assert not any("forward" in vars(module) for module in vae.modules())
    assert not vae.use_tiling
