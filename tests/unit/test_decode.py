"""Streamed decoding is the full decode, frame by frame."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from diffusers import AutoencoderKLWan

import engine_support  # noqa: F401  # one thread, no network
from rushes.wire.jobs import VaeOptions
from rushes_service.models.vae.tiles import TilePlan, plan_tiles
from rushes_service.models.wan.decode import stream_wan
from rushes_service.models.wan.tiny import vae as tiny_vae
from rushes_service.models.wan22.tiny import vae22 as tiny_vae22
from rushes_service.runtime.pixels import to_uint8


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return tiny_vae()


def latents(frames: int, size: int = 4) -> torch.Tensor:
    return torch.randn(1, 16, frames, size, size, generator=torch.Generator().manual_seed(frames))


def full(vae: AutoencoderKLWan, z: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return vae.decode(z, return_dict=False)[0]


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_streamed_decode_equals_full_decode_bitwise(vae, frames):
    z = latents(frames)
    clips = list(stream_wan(vae, z))
    assert [clip.shape[2] for clip in clips] == [1] + [4] * (frames - 1)
    assert torch.equal(torch.cat(clips, dim=2), full(vae, z))


def test_streamed_decode_is_exact_in_bfloat16_too(vae):
    model = tiny_vae().to(torch.bfloat16)
    z = latents(3).to(torch.bfloat16)
    assert torch.equal(torch.cat(list(stream_wan(model, z)), dim=2), full(model, z))


def test_a_consumer_that_stops_early_leaves_nothing_behind(vae):
    stream = stream_wan(vae, latents(4))
    next(stream)
    clip = weakref.ref(next(stream))
    stream.close()
    gc.collect()
    assert clip() is None
    assert torch.equal(torch.cat(list(stream_wan(vae, latents(3))), dim=2), full(vae, latents(3)))


def live_bytes() -> int:
    """Bytes of all tensors that Python knows of, each storage once."""
    gc.collect()
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in gc.get_objects()
        if type(t) is torch.Tensor
    }
    return sum(storages.values())


def test_memory_does_not_grow_with_the_clip(vae):
    def held(frames: int) -> int:
        z = latents(frames)
        before = live_bytes()
        *_, most = sorted(live_bytes() for _ in stream_wan(vae, z))
        return most - before - z.nbytes  # less the latents, as the decoder's first layer makes them

    assert held(13) == held(5)


def test_two_clips_may_be_decoded_in_turns(vae):
    one, other = stream_wan(vae, latents(3)), stream_wan(vae, latents(4))
    clips = [next(one), next(other), next(one), next(other), next(one)]
    assert torch.equal(torch.cat(clips[::2], dim=2), full(vae, latents(3)))


def test_streaming_does_not_switch_off_gradients_for_its_consumer(vae):
    for _ in stream_wan(vae, latents(2)):
        assert torch.is_grad_enabled()


def test_tiles_give_the_whole_picture_and_are_switched_off_afterwards(vae):
    z = latents(2, size=8)
    clips = list(stream_wan(vae, z, TilePlan(32, 24)))
    assert [clip.shape for clip in clips] == [(1, 3, 1, 64, 64), (1, 3, 4, 64, 64)]
    assert not torch.equal(torch.cat(clips, dim=2), full(vae, z))
    assert not vae.use_tiling


@pytest.mark.parametrize(
    ("make", "plan"), [(tiny_vae, TilePlan(32, 24)), (tiny_vae, TilePlan(40, 24)), (tiny_vae22, TilePlan(48, 32))]
)
def test_tiles_are_those_of_diffusers_bitwise(make, plan):
    torch.manual_seed(0)
    model = make()
    ratio = model.spatial_compression_ratio
    z = torch.randn(1, model.config.z_dim, 3, 96 // ratio, 80 // ratio)
    clip = torch.cat(list(stream_wan(model, z, plan)), dim=2)
    model.enable_tiling(plan.size, plan.size, plan.stride, plan.stride)
    assert torch.equal(clip, full(model, z))


@pytest.mark.parametrize("size", [16, 32, 40, 48, 100, 256])
def test_every_tile_size_gives_a_picture_of_the_right_size(vae, size):
    plan = plan_tiles(VaeOptions(spatial_tile_sample_min_size=size), 64, 48)
    z = torch.randn(1, 16, 1, 6, 8)
    (clip,) = stream_wan(vae, z, plan)
    assert clip.shape == (1, 3, 1, 48, 64)


def test_tiling_is_planned_only_where_it_is_asked_for_and_needed():
    assert plan_tiles(VaeOptions(), 4096, 4096) is None
    assert plan_tiles(VaeOptions(tiling=True), 256, 256) is None
    assert plan_tiles(VaeOptions(tiling=True), 512, 256) == TilePlan(256, 192)
    assert plan_tiles(VaeOptions(spatial_tile_sample_min_size=48), 64, 64) == TilePlan(48, 32)


def test_bytes_are_truncated_not_rounded():
    (frame,) = to_uint8(torch.tensor([0.0, 0.999, 1.0]).view(3, 1, 1, 1))
    assert frame.tolist() == [[[0, 254, 255]]]
