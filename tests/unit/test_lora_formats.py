"""Every format on every family: the transformer answers as with the same delta added by hand in float64."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine_support import Recorder
from family_support import FAMILIES, tiny_model_spec, tiny_options
from lora_support import FORMATS, ORIGINAL, Tensors, by_hand, linears, write
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import Prompt, SampleJob
from rushes_service.engine.engine import Engine
from rushes_service.lora.merge import LoraMerger
from rushes_service.lora.reading import read_lora
from rushes_service.lora.targets import NameTable

pytestmark = pytest.mark.usefixtures("small_control_images")

TOLERANCE = 1e-5


class Stage:
    """A family's tiny transformer, its table of names, and what one denoising step calls it with."""

    def __init__(self, family: str, directory: Path) -> None:
        self.family = family
        engine = Engine("cpu", directory / "cache")
        job = SampleJob(
            id="a",
            run="test",
            submission="test",
            model=tiny_model_spec(family, directory),
            prompt=Prompt(prompt="a red ball", **tiny_options(ARCHITECTURES[family], directory)),
            output_dir="/nowhere",
        )
        self.renames = not family.startswith("framepack")
        """False for a family whose trainers use diffusers' names."""
        calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []
        engine.denoise(job, Recorder())
        base = engine.loaded.base
        self.model: nn.Module = base.transformer
        self.names: NameTable = base.lora_names()
        parts = [self.model, *self.model.children()]
        parts = [part for part in parts if hasattr(part, "config")]
        for part in parts:  # not by hooks: what those of the family change is to be seen, too
            part.forward = recording(part, calls)  # type: ignore[method-assign]
        engine.denoise(job, Recorder())
        for part in parts:
            del part.forward
        self.calls = calls[:1]
        self.merger = LoraMerger(self.model)
        self.base = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    @torch.no_grad()
    def answer(self) -> torch.Tensor:
        """What the transformer says to the recorded call."""
        module, inputs, options = self.calls[0]
        found = module(*inputs, **options)
        found = getattr(found, "sample", found)
        while isinstance(found, (tuple, list)):  # Z-Image answers with a list of pictures
            found = found[0]
        return found.clone()

    def is_base(self) -> bool:
        return all(torch.equal(tensor, self.base[name]) for name, tensor in self.model.state_dict().items())


def recording(part: nn.Module, calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]) -> Any:
    """`part.forward`, which adds each call to `calls`."""
    forward = part.forward

    @functools.wraps(forward)
    def called(*inputs: Any, **options: Any) -> Any:
        calls.append((part, inputs, options))
        return forward(*inputs, **options)

    return called


@pytest.fixture(scope="module", params=FAMILIES)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    yield Stage(request.param, tmp_path_factory.mktemp("stage"))


@torch.no_grad()
def load_by_hand(stage: Stage, weights: Tensors) -> None:
    for name, weight in weights.items():
        stage.model.get_parameter(name).copy_(weight)


@pytest.mark.parametrize("style", FORMATS)
def test_each_format_is_the_delta_added_by_hand(stage: Stage, tmp_path: Path, style: str) -> None:
    modules = linears(stage.model, stage.names, original=style in ORIGINAL and stage.renames)
    assert len(modules) >= 6
    adapter = FORMATS[style](modules, torch.Generator().manual_seed(1))
    path = write(adapter, tmp_path / "a.safetensors")
    plain = stage.answer()
    load_by_hand(stage, by_hand(stage.base, adapter, modules, 0.7))
    wanted = stage.answer()
    load_by_hand(stage, stage.base)
    lora = read_lora(path, stage.names, stage.merger.shapes, family=stage.family)
    stage.merger.merge([(lora, 0.7)])
    found = stage.answer()
    stage.merger.restore()
    assert (wanted - plain).abs().max() > 100 * TOLERANCE, "the LoRA must show"
    assert (found - wanted).abs().max() <= TOLERANCE
    assert lora.report.unmatched == 0
    assert stage.is_base()
