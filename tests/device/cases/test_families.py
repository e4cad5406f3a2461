"""Every family x precision x adapter: as the CPU makes it, exact again afterwards, and nothing moved in vain.

Families that have another's modules (`LIKE_ANOTHER`) are tried in bfloat16, the others in every precision, and `DENSE`
with every adapter in each. An engine serves all cases of its family and precision.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest
import torch

from device_support import (
    ADAPTERS,
    DENSE,
    LEADING,
    PRECISIONS,
    Made,
    Watch,
    base_of,
    places_of,
    same_weights,
    sample,
    weights_of,
)
from engine_support import Recorder
from family_support import FAMILIES, makes_clips
from rushes.errors import SampleCancelled
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import VaeOptions
from rushes_service.engine.offload import blocks_of
from rushes_service.engine.placement import transformers_of

pytestmark = pytest.mark.usefixtures("one_card")

HALF_VAE = ("hunyuan", "skyreels", "framepack", "kandinsky5-t2v", "kandinsky5-i2v")
"""Families with HunyuanVideo's VAE or 1.5's, which is in float16 on a GPU and in float32 on the CPU, like most of their
text encoders."""

WAITS_A_STEP = {"wan": 9, "hunyuan-video-1.5": 64}
FEW_WAITS = 4
"""How often the host may wait for the card in one denoising step. Wan's scheduler solves a system of equations,
diffusers' HunyuanVideo 1.5 sorts tokens by masks.
"""

WAYS = {
    "as it is": VaeOptions(),
    "in tiles": VaeOptions(spatial_tile_sample_min_size=32),
    "in chunks": VaeOptions(chunk_size=16),
    "in chunks and tiles": VaeOptions(chunk_size=16, tiling=True, spatial_tile_sample_min_size=32),
}
ROUNDING = 2e-2
"""Mean difference of pixels where the VAE is in float16 on a GPU."""

TRIED = [
    (family, precision)
    for family in FAMILIES
    for precision in PRECISIONS
    if family in LEADING or precision == "bfloat16"
]
OFFLOADED = [
    (family, precision)
    for family, precision in TRIED
    if family in DENSE or precision in ("bfloat16", "float8 with scales")
]


def kinds_for(family: str, precision: str) -> tuple[str, ...]:
    """Adapters that are tried: all of them, or a LoRA, which changes some layers, and a checkpoint that changes all."""
    if family in DENSE:
        return tuple(ADAPTERS)
    return ("LoRA", "full checkpoint") if family in LEADING and precision == "bfloat16" else ("LoRA",)


def allowed(family: str) -> float:
    """Mean difference from the CPU in float32."""
    return 2e-2 if family.startswith(HALF_VAE) else 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_card_makes_what_the_cpu_makes(benches: Any, family: str) -> None:
    made = benches.get(family, "float32").base
    wanted = benches.get(family, "float32", place="cpu").base
    assert (made.latents - wanted.latents).abs().mean() <= allowed(family)
    assert (made.pixels - wanted.pixels).abs().mean() <= allowed(family)


@pytest.mark.parametrize(("family", "precision"), TRIED)
def test_a_second_sample_is_the_same_waits_little_and_moves_no_model(
    benches: Any, gpu: Any, family: str, precision: str
) -> None:
    bench, waits, encoded, uploads = benches.get(family, precision), list[int](), list[bool](), list[tuple[str, int]]()

    class Counting(Watch):
        def stage(self, name: str, total: int = 0) -> None:
            uploads.append((name, gpu.counts().get("bytes to the card", 0)))
            super().stage(name, total)

        def step(self, done: int, total: int) -> None:
            if self.stages[-1] == "denoise":
                waits.append(gpu.waits())

    gpu.forget()
    with bench.engine.conditioning.before_computing(lambda: encoded.append(True)):
        again = sample(bench.engine, benches.workplace.job(family, model=PRECISIONS[precision]), Counting())
    assert again.same_as(bench.base)
    assert not encoded
    moved = gpu.counts()
    after = [count for _, count in uploads[1:]] + [moved.get("bytes to the card", 0)]
    # What comes to the card while encoding is the prompt: its embeddings, and a megapixel of each picture.
    uploaded = sum(end - begin for (name, begin), end in zip(uploads, after, strict=True) if name != "encode")
    model = sum(value.numel() for value in bench.weights.values())
    assert uploaded + moved.get("bytes to the host", 0) < model / 4 + again.pixels.nbytes * 2
    limit = next((count for name, count in WAITS_A_STEP.items() if family.startswith(name)), FEW_WAITS)
    assert max(after - before for before, after in pairwise(waits)) <= limit
    assert places_of(bench.engine) == {"cuda:0"}


@pytest.mark.parametrize(("family", "precision"), TRIED)
def test_adapters_act_and_leave_nothing(benches: Any, family: str, precision: str) -> None:
    """One after the other; each differs from the base and from the others, and the base comes back to the bit."""
    bench = benches.get(family, precision)
    for kind in kinds_for(family, precision):
        acts(bench, benches.adapted(bench, kind))
    latents = [bench.base.latents, *(made.latents for made in bench.adapted.values())]
    assert not any(torch.equal(one, other) for one, other in combinations(latents, 2))
    is_base_again(benches, bench)


@pytest.mark.parametrize(("family", "precision"), OFFLOADED)
def test_an_offloaded_model_makes_the_same(benches: Any, family: str, precision: str) -> None:
    plain, offloaded = benches.get(family, precision), benches.get(family, precision, offload=True)
    assert offloaded.base.same_as(plain.base)
    for kind in kinds_for(family, precision):
        assert benches.adapted(offloaded, kind).same_as(benches.adapted(plain, kind))
    is_base_again(benches, offloaded)
    base = base_of(offloaded.engine)
    for part in transformers_of(base):
        assert {tensor.device.type for block in blocks_of(part) for tensor in block.parameters()} == {"cpu"}
    assert base.vae.device == torch.device("cuda:0")


def acts(bench: Any, made: Made) -> None:
    assert bool(made.latents.isfinite().all())
    assert not torch.equal(made.latents, bench.base.latents)


def is_base_again(benches: Any, bench: Any) -> None:
    """The next sample without an adapter is the base's, bit for bit."""
    again = sample(bench.engine, benches.workplace.job(bench.family, model=PRECISIONS[bench.precision]))
    assert again.same_as(bench.base)
    assert same_weights(weights_of(bench.engine), bench.weights)


@pytest.mark.parametrize(("family", "precision"), [(family, "float32") for family in LEADING])
def test_ways_to_decode_are_those_of_the_cpu(benches: Any, family: str, precision: str) -> None:
    frames = 9 if makes_clips(ARCHITECTURES[family]) else 1
    engines = [benches.get(family, precision, place=place).engine for place in ("cuda:0", "cpu")]
    for name, way in WAYS.items():
        if name.startswith("in chunks") and not base_of(engines[0]).chunked:
            continue
        options = {"model": PRECISIONS[precision], "vae": way, "frames": frames, "width": 64, "sample_steps": 2}
        job = benches.workplace.job(family, **options)
        made, wanted = (sample(engine, job) for engine in engines)
        assert made.pixels.shape == wanted.pixels.shape
        assert bool(made.pixels.isfinite().all())
        assert (made.pixels - wanted.pixels).abs().mean() <= ROUNDING, name


@pytest.mark.parametrize(
    ("family", "precision"), [(name, "bfloat16") for name in LEADING if makes_clips(ARCHITECTURES[name])]
)
def test_a_decode_that_is_taken_frame_by_frame_is_the_whole_one(benches: Any, family: str, precision: str) -> None:
    engine = benches.get(family, precision).engine
    job = benches.workplace.job(family, model=PRECISIONS[precision], frames=9, sample_steps=2)
    whole = sample(engine, job)
    parts = [part.cpu() for part in engine.denoise(job, whole.heard).pixels()]
    assert torch.equal(torch.cat(parts, dim=1), whole.pixels)


@pytest.mark.parametrize(("family", "precision"), [(family, "bfloat16") for family in FAMILIES])
def test_a_cancelled_sample_stops_within_a_step_and_leaves_the_base(benches: Any, family: str, precision: str) -> None:
    bench = benches.get(family, precision)
    options = {"model": PRECISIONS[precision], "sample_steps": 6}
    job = benches.workplace.job(family, benches.adapter(family, "LoRA"), **options)
    watch = Recorder(stop_at=2, stop=SampleCancelled("enough"))
    with pytest.raises(SampleCancelled):
        sample(bench.engine, job, watch)
    assert watch.steps[-1][0] == 2
    is_base_again(benches, bench)
