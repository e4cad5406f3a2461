"""Every family x precision x adapter: as the CPU makes it, exact again afterwards, and nothing moved in vain."""

from __future__ import annotations

from itertools import pairwise
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
from family_support import FAMILIES
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
MERGED = [
    (family, precision, kind)
    for family, precision in TRIED
    for kind in ADAPTERS
    if family in DENSE or kind == "LoRA" or (family in LEADING and (precision, kind) == ("bfloat16", "full checkpoint"))
]
OFFLOADED_ADAPTERS = ("LoRA", "full checkpoint")


def allowed(family: str) -> float:
    """Mean difference from the CPU in float32."""
    return 2e-2 if family.startswith(HALF_VAE) else 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_card_makes_what_the_cpu_makes(benches: Any, family: str) -> None:
    made = benches.get(family, "float32").base
    job = benches.workplace.job(family, model=PRECISIONS["float32"])
    wanted = sample(benches.workplace.engine("cpu", fresh=True), job)
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


@pytest.mark.parametrize(("family", "precision", "kind"), MERGED)
def test_an_adapter_acts_and_leaves_nothing(benches: Any, family: str, precision: str, kind: str) -> None:
    comes_and_goes(benches, benches.get(family, precision), kind)


@pytest.mark.parametrize(("family", "precision"), OFFLOADED)
def test_an_offloaded_model_makes_the_same(benches: Any, family: str, precision: str) -> None:
    plain = benches.get(family, precision)
    wanted = {None: plain.base, **{kind: with_adapter(benches, plain, kind) for kind in OFFLOADED_ADAPTERS}}
    offloaded = benches.get(family, precision, offload=True)
    assert offloaded.base.same_as(wanted[None])
    for kind in OFFLOADED_ADAPTERS:
        assert comes_and_goes(benches, offloaded, kind).same_as(wanted[kind])
    base = base_of(offloaded.engine)
    for part in transformers_of(base):
        assert {tensor.device.type for block in blocks_of(part) for tensor in block.parameters()} == {"cpu"}
    assert base.vae.device == torch.device("cuda:0")


def with_adapter(benches: Any, bench: Any, kind: str) -> Made:
    path = benches.adapter(bench.family, kind)
    return sample(bench.engine, benches.workplace.job(bench.family, path, model=PRECISIONS[bench.precision]))


def comes_and_goes(benches: Any, bench: Any, kind: str) -> Made:
    """A sample with an adapter. It differs from the base; the next one without is the base's, bit for bit."""
    made = with_adapter(benches, bench, kind)
    assert not torch.equal(made.latents, bench.base.latents)
    assert bool(made.latents.isfinite().all())
    again = sample(bench.engine, benches.workplace.job(bench.family, model=PRECISIONS[bench.precision]))
    assert again.same_as(bench.base)
    assert same_weights(weights_of(bench.engine), bench.weights)
    return made
