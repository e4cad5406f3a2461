"""Cards, models and engines for the cases, in a process that has a pretended CUDA."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from pretended_gpu import Gpu, install

cards = install()

import pytest  # noqa: E402
import torch  # noqa: E402

from device_support import ADAPTERS, PRECISIONS, Made, Workplace, sample, settled, weights_of  # noqa: E402
from family_support import FAMILIES  # noqa: E402
from rushes_service.engine.engine import Engine  # noqa: E402
from rushes_service.models.qwen import edit  # noqa: E402
from rushes_service.models.registry import find  # noqa: E402

edit.VAE_AREA = 64 * 64
"""A control image has a megapixel, whatever the sample's size: with it, a sample takes the pretended card 15 s."""


@pytest.fixture(scope="session", autouse=True)
def libraries_are_not_collected(workplace: Workplace) -> None:
    """The engine collects garbage at every turn: looking at all that libraries hold would take most of the time."""
    for family in FAMILIES:
        find(family)
    engine = workplace.engine()
    sample(engine, workplace.job("hunyuan-video-i2v"))
    engine.unload()
    del engine
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def gpu() -> Iterator[Gpu]:
    """The cards, with memory to spare. A case fails that mixed devices, or used another card than the first."""
    cards.mend()
    cards.forget()
    cards.initialised = True
    yield cards
    cards.mend()
    torch.cuda.set_device(0)


@pytest.fixture
def one_card() -> None:
    """The case fails if it touched any card but the first, or mixed two places (see below)."""


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """Looks at the cards once the case itself has succeeded, as a part of it."""
    result = yield
    if "one_card" in pyfuncitem.fixturenames:
        touched = {card: count for card in range(1, cards.cards) if (count := cards.ask("touches", card))}
        assert not touched, f"other cards were used: {touched}"
        mixed = {what: times for what, times in cards.counts().items() if what.startswith(("mixed", "bytes between"))}
        assert not mixed
    return result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Faults that are known: their cases must fail, and the mark goes when they are mended."""
    for item in items:
        for cases, reason in KNOWN_FAULTS.items():
            if re.search(cases, item.nodeid):
                item.add_marker(pytest.mark.xfail(strict=True, reason=reason))


KNOWN_FAULTS: dict[str, str] = {}
"""Patterns of cases, and what is wrong."""


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("device"))


@dataclass
class Bench:
    """A warm engine, what its base model makes, and its weights as they were loaded."""

    family: str
    precision: str
    engine: Engine
    base: Made
    weights: dict[str, torch.Tensor]


class Benches:
    """Keeps the engine that was used last: cases come sorted by family and precision."""

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace
        self._kept: tuple[tuple[str, str, bool], Bench] | None = None

    def get(self, family: str, precision: str, *, offload: bool = False) -> Bench:
        key = (family, precision, offload)
        if self._kept is None or self._kept[0] != key:
            self._kept = None
            settled()
            engine = self.workplace.engine(offload=offload)
            base = sample(engine, self.workplace.job(family, model=PRECISIONS[precision]))
            self._kept = (key, Bench(family, precision, engine, base, weights_of(engine)))
        return self._kept[1]

    def adapter(self, family: str, kind: str) -> Path:
        """A file of a kind for a family, made of its model in float32."""
        path = self.workplace.home / "adapters" / f"{family}-{kind.replace(' ', '-')}.safetensors"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            engine = self.workplace.engine("cpu")
            engine.denoise(self.workplace.job(family, sample_steps=2), _Silent())
            ADAPTERS[kind](engine, path)
        return path


class _Silent:
    def stage(self, name: str, total: int = 0) -> None:
        """Nothing."""

    def step(self, done: int, total: int) -> None:
        """Nothing."""


@pytest.fixture(scope="session")
def benches(workplace: Workplace) -> Benches:
    return Benches(workplace)
