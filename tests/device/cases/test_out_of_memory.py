"""Memory that runs out at any allocation of any stage: the sample is right or fails, and the next one is right.

The allocations of each stage are counted, then some of them fail: for once, in the try after it as well, or all from
there to the end of the sample, as when a neighbour takes the card.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch

from device_support import (
    LEADING,
    LIKE_ANOTHER,
    PRECISIONS,
    Made,
    Watch,
    Workplace,
    places_of,
    same_weights,
    sample,
    settled,
    weights_of,
)
from engine_support import Recorder
from rushes.errors import OutOfMemory

pytestmark = pytest.mark.usefixtures("one_card")

SWEPT = "wan2.1-t2v"
"""The family whose stages fail at their first and last allocations, too, and twice."""

STAGES = ("load", "lora", "encode", "denoise", "decode")
ONCE, TWICE, UNTIL_THE_END = "once", "and the try after it", "and all after it"
MODEL = PRECISIONS["bfloat16"]


class Counter(Recorder):
    """Notes how many allocations had been made when each stage began."""

    def __init__(self, gpu: Any) -> None:
        super().__init__()
        self.gpu = gpu
        self.begun: list[tuple[str, int]] = []

    def stage(self, name: str, total: int = 0) -> None:
        self.begun.append((name, self.gpu.ask("allocations")))
        super().stage(name, total)


class Failing(Recorder):
    """Lets the `allocation`-th allocation of a stage fail, in its first try, its first two, or from there on."""

    def __init__(self, gpu: Any, at: str, allocation: int, how: str) -> None:
        super().__init__()
        self.gpu, self.at, self.allocation, self.how = gpu, at, allocation, how

    def stage(self, name: str, total: int = 0) -> None:
        tries = self.stages.count(self.at)
        if self.how == UNTIL_THE_END:
            if name == self.at and not tries:
                self.gpu.fail(self.allocation, times=1 << 40)
        elif name == self.at and tries < (2 if self.how == TWICE else 1):
            self.gpu.fail(self.allocation)
        super().stage(name, total)


@dataclass
class Expected:
    """What undisturbed engines make of a family: with a LoRA and without, and its weights."""

    lora: Any
    with_lora: Made
    base: Made
    weights: dict[str, torch.Tensor]
    allocations: dict[str, int]


@pytest.fixture(scope="module")
def expected(benches: Any) -> Any:
    @cache
    def of(family: str) -> Expected:
        from conftest import cards

        workplace: Workplace = benches.workplace
        lora = benches.adapter(family, "LoRA")
        counter, engine = Counter(cards), workplace.engine(fresh=True)
        with_lora = sample(engine, workplace.job(family, lora, model=MODEL), counter)
        begun = [*counter.begun, ("end", cards.ask("allocations"))]
        counts = {name: after - at for (name, at), (_, after) in pairwise(begun)}
        base = sample(engine, workplace.job(family, model=MODEL))
        return Expected(lora, with_lora, base, weights_of(engine), counts)

    return of


def points() -> list[tuple[str, str, float, str]]:
    """Families, stages, how far into the stage (0 to 1), and how memory runs out.

    Loading and merging are the same for all families. Those that have another's modules differ in what they encode.
    """
    ends = [(place, how) for place in (0.0, 0.5, 1.0) for how in (ONCE, UNTIL_THE_END)]
    found = [(SWEPT, stage, *point) for stage in STAGES for point in (*ends, (0.5, TWICE))]
    own = [
        ("encode", ONCE),
        ("encode", UNTIL_THE_END),
        ("denoise", ONCE),
        ("denoise", UNTIL_THE_END),
        ("decode", ONCE),
    ]
    found += [(family, stage, 0.5, how) for family in LEADING if family != SWEPT for stage, how in own]
    return [*found, *((family, "encode", 0.5, UNTIL_THE_END) for family in LIKE_ANOTHER)]


@pytest.mark.parametrize(("family", "stage", "place", "how"), points())
def test_whatever_allocation_fails_the_next_sample_is_right(
    expected: Any, workplace: Workplace, gpu: Any, family: str, stage: str, place: float, how: str
) -> None:
    wanted = expected(family)
    last = wanted.allocations[stage]
    if not last:
        pytest.skip(f"the stage {stage} allocates nothing")
    settled()
    before = gpu.ask("held")  # by what pytest keeps of cases that failed
    engine = workplace.engine(fresh=stage == "encode")
    job = workplace.job(family, wanted.lora, model=MODEL)
    made = disturbed(engine, job, Failing(gpu, stage, max(1, round(place * last)), how))
    if made is not None:
        rightly_made(made, wanted)
    assert made is not None or how == UNTIL_THE_END or (how == TWICE and stage == "decode")
    gpu.mend()
    rightly_made(sample(engine, job), wanted)
    rightly_made(sample(engine, workplace.job(family, model=MODEL)), wanted, base=True)
    assert same_weights(weights_of(engine), wanted.weights)
    engine.unload()
    del made
    settled()
    assert gpu.ask("held") <= before


def disturbed(engine: Any, job: Any, how: Failing) -> Made | None:
    """The sample, or None if memory did not suffice."""
    try:
        return sample(engine, job, how)
    except OutOfMemory:
        return None


def rightly_made(made: Made, wanted: Expected, *, base: bool = False) -> None:
    """Bit for bit, or said to be otherwise."""
    reference = wanted.base if base else wanted.with_lora
    outputs = {stage: fact["output"] for stage, fact in made.facts.get("out_of_memory", {}).items()}
    if outputs.get("encode", "exact") == "exact":
        assert torch.equal(made.latents, reference.latents), outputs
    if set(outputs.values()) <= {"exact"}:
        assert torch.equal(made.pixels, reference.pixels), outputs
    assert made.pixels.shape == reference.pixels.shape


def test_a_neighbour_that_takes_the_card_for_a_while_leaves_no_trace(
    expected: Any, workplace: Workplace, gpu: Any
) -> None:
    """The samples after it are made as before, overlap included."""
    wanted = expected("wan2.1-t2v")
    engine = workplace.engine()
    job = workplace.job("wan2.1-t2v", wanted.lora, model=MODEL)
    sample(engine, job)

    def takes() -> None:
        gpu.tell("neighbour", 0, gpu.ask("total") - gpu.ask("held") - (64 << 10))

    made = disturbed(engine, job, Watch(at={"denoise": takes}))
    assert made is None or torch.equal(made.latents, wanted.with_lora.latents)
    gpu.mend()
    for _ in range(2):
        after = sample(engine, job)
    assert after.same_as(wanted.with_lora)
    assert "out_of_memory" not in after.facts
    assert not after.facts["offloaded"]
    assert engine.denoise(job, Recorder()).overlaps
    assert places_of(engine) == {"cuda:0"}
