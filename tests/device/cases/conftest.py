"""Cards, models and engines for the cases, in a process that has a pretended CUDA."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
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
from rushes_service.engine.loaded import load_model  # noqa: E402
from rushes_service.models.encoders import t5_clip  # noqa: E402
from rushes_service.models.loading.files.hashes import FileHashCache  # noqa: E402
from rushes_service.models.qwen import edit  # noqa: E402
from rushes_service.models.registry import find  # noqa: E402
from rushes_service.runtime.devices import CPU  # noqa: E402

edit.VAE_AREA = 64 * 64
"""A control image has a megapixel, whatever the sample's size: with it, a sample takes the pretended card 15 s."""

t5_clip.T5_TOKENS = 32
"""FLUX.1 is shown 512 tokens, whatever the prompt."""


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
    """Within a file, cases of a family and a precision follow each other, so that an engine is loaded once for them."""
    items.sort(key=lambda item: (item.path, *places(getattr(item, "callspec", None))))


def places(parameters: Any) -> tuple[int, int]:
    """Places of a case's family and precision among all; cases without come first."""
    chosen = parameters.params if parameters else {}
    family, precision = chosen.get("family"), chosen.get("precision")
    return (
        FAMILIES.index(family) if family in FAMILIES else -1,
        list(PRECISIONS).index(precision) if precision in PRECISIONS else -1,
    )


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("device"))


@dataclass
class Bench:
    """A warm engine, what its base model makes, its weights as they were loaded, and what adapters made of it."""

    family: str
    precision: str
    engine: Engine
    base: Made
    weights: dict[str, torch.Tensor]
    adapted: dict[str, Made] = field(default_factory=dict)


class Benches:
    """Keeps the engine that was used last in each place: cases come sorted by family and precision."""

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace
        self._kept: dict[str, Bench] = {}

    def get(self, family: str, precision: str, *, place: str = "cuda:0", offload: bool = False) -> Bench:
        kept_as = f"{place} offload" if offload else place
        kept = self._kept.get(kept_as)
        if kept is None or (kept.family, kept.precision) != (family, precision):
            self._kept.pop(kept_as, None)
            del kept
            settled()
            engine = self.workplace.engine(place, offload=offload)
            base = sample(engine, self.workplace.job(family, model=PRECISIONS[precision]))
            self._kept[kept_as] = Bench(family, precision, engine, base, weights_of(engine))
        return self._kept[kept_as]

    def adapted(self, bench: Bench, kind: str) -> Made:
        """What a bench makes with an adapter; it is made once."""
        if kind not in bench.adapted:
            bench.adapted[kind] = with_adapter(self, bench, kind)
        return bench.adapted[kind]

    def adapter(self, family: str, kind: str) -> Path:
        """A file of a kind for a family, made of its model in float32."""
        directory = self.workplace.home / "adapters"
        files = {each: directory / f"{family}-{each.replace(' ', '-')}.safetensors" for each in ADAPTERS}
        if not files[kind].exists():
            directory.mkdir(exist_ok=True)
            loaded = load_model(self.workplace.model(family), CPU, torch.float32, FileHashCache(), offload=False)
            for each, path in files.items():
                ADAPTERS[each](loaded.base, path)
        return files[kind]


def with_adapter(benches: Benches, bench: Bench, kind: str) -> Made:
    path = benches.adapter(bench.family, kind)
    return sample(bench.engine, benches.workplace.job(bench.family, path, model=PRECISIONS[bench.precision]))


@pytest.fixture(scope="session")
def benches(workplace: Workplace) -> Benches:
    return Benches(workplace)
