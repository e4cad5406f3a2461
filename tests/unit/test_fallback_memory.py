"""Which fallback the next sample begins with, and when that is forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rushes.errors import OutOfMemory
from rushes_service.engine.fallback_memory import FIRST_S, GROWN_BYTES, FallbackMemory
from rushes_service.engine.fallbacks import Fallback

WAYS = (Fallback("default"), Fallback("again"), Fallback("tiles", "approximate"), Fallback("smaller", "approximate"))
SHAPE = ("model", 64, 64)


@dataclass
class Machine:
    """A clock, and a device whose memory others take and give back."""

    now: float = 0.0
    available: int = 1 << 30

    def memory(self) -> FallbackMemory:
        return FallbackMemory(lambda: self.available, lambda: self.now)


def sampled(memory: FallbackMemory, needs: int, shape: tuple[object, ...] = SHAPE) -> list[str]:
    """The ways that are tried until the one with number `needs` fits."""
    tried: list[str] = []

    def work(fallback: Fallback) -> None:
        tried.append(fallback.name)
        if WAYS.index(fallback) < needs:
            raise OutOfMemory("full")

    memory.attempt("decode", shape, WAYS).run(work, lambda: None)
    return tried


def test_a_shape_begins_with_what_worked_and_no_other_does():
    memory = Machine().memory()
    assert sampled(memory, 1) == ["default", "again"]
    assert sampled(memory, 1) == ["again"]
    assert sampled(memory, 0, ("model", 32, 32)) == ["default"]
    assert memory.needed(SHAPE)
    assert not memory.needed(("model", 32, 32))


def test_what_fails_in_every_way_is_not_remembered():
    memory = Machine().memory()
    with pytest.raises(OutOfMemory):
        sampled(memory, len(WAYS))
    assert not memory.needed(SHAPE)


def test_a_way_that_approximates_is_never_the_first():
    memory = Machine().memory()
    sampled(memory, 3)
    assert sampled(memory, 3) == ["again", "tiles", "smaller"]
    assert sampled(memory, 0) == ["again"]


def test_memory_that_comes_back_makes_everything_as_before():
    machine = Machine()
    memory = machine.memory()
    sampled(memory, 1)
    machine.available += GROWN_BYTES - 1
    assert memory.needed(SHAPE)
    machine.available += 1
    assert not memory.needed(SHAPE)
    assert sampled(memory, 0) == ["default"]


def test_the_default_is_tried_again_after_a_while_and_then_less_often():
    machine = Machine()
    memory = machine.memory()
    sampled(memory, 1)
    machine.now = FIRST_S - 1
    assert sampled(memory, 1) == ["again"]
    machine.now = FIRST_S
    assert sampled(memory, 1) == ["default", "again"]
    machine.now += 2 * FIRST_S - 1
    assert sampled(memory, 1) == ["again"]
    machine.now += 1
    assert sampled(memory, 0) == ["default"]
    assert sampled(memory, 1) == ["default", "again"]
    machine.now += FIRST_S
    assert not memory.needed(SHAPE)


def test_other_memory_is_freed_before_every_way_but_the_default():
    memory, freed = Machine().memory(), list[int]()
    sampled(memory, 1)
    memory.attempt("decode", SHAPE, WAYS).run(lambda _fallback: None, lambda: freed.append(1))
    assert freed == [1]
    memory.attempt("decode", ("other",), WAYS).run(lambda _fallback: None, lambda: freed.append(1))
    assert freed == [1]
