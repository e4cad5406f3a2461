"""Every way to decode, on the card as on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from device_support import DENSE, LEADING, PRECISIONS, sample
from family_support import FAMILIES, makes_clips
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import VaeOptions

pytestmark = pytest.mark.usefixtures("one_card")

WAYS = {
    "as it is": VaeOptions(),
    "in chunks": VaeOptions(chunk_size=16),
    "in tiles": VaeOptions(spatial_tile_sample_min_size=32),
    "in chunks and tiles": VaeOptions(chunk_size=16, tiling=True, spatial_tile_sample_min_size=32),
}
ROUNDING = 2e-2
"""Mean difference where the VAE is in float16 on a GPU."""


@pytest.mark.parametrize(
    ("family", "way"),
    [(family, way) for family in LEADING for way in WAYS if family in DENSE or way in ("as it is", "in tiles")],
)
def test_frames_are_those_of_the_cpu(benches: Any, family: str, way: str) -> None:
    workplace = benches.workplace
    frames = 9 if makes_clips(ARCHITECTURES[family]) else 1
    options = {"model": PRECISIONS["float32"], "vae": WAYS[way], "frames": frames, "width": 64, "sample_steps": 2}
    job = workplace.job(family, **options)
    made = sample(benches.get(family, "float32").engine, job)
    wanted = sample(workplace.engine("cpu", fresh=True), job)
    assert made.pixels.shape == wanted.pixels.shape
    assert bool(made.pixels.isfinite().all())
    assert (made.pixels - wanted.pixels).abs().mean() <= ROUNDING


@pytest.mark.parametrize("family", [name for name in FAMILIES if makes_clips(ARCHITECTURES[name])])
def test_a_decode_that_is_taken_frame_by_frame_is_the_whole_one(benches: Any, family: str) -> None:
    engine = benches.get(family, "bfloat16").engine
    job = benches.workplace.job(family, model=PRECISIONS["bfloat16"], frames=9, sample_steps=2)
    whole = sample(engine, job)
    parts = [part.cpu() for part in engine.denoise(job, whole.heard).pixels()]
    assert torch.equal(torch.cat(parts, dim=1), whole.pixels)
