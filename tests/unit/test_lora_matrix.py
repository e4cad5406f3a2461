"""A LoRA of each family, as its trainer writes it, given to each other family: refused, and both are named."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from family_support import FAMILIES, tiny_model_spec
from lora_support import FileModule, linears, musubi, write
from rushes.errors import LoraMismatch
from rushes_service.lora.merge import LoraMerger
from rushes_service.lora.reading import read_lora
from rushes_service.lora.targets import NameTable
from rushes_service.models.registry import find

SYSTEMS = {
    "wan": ("wan",),
    "hunyuan-video": ("hunyuan-video-i2v", "skyreels-v1"),
    "hunyuan-video-1.5": ("hunyuan-video-1.5",),
    "framepack": ("framepack",),
    "flux1": ("flux1",),
    "flux2": ("flux2",),
    "qwen-image": ("qwen-image",),
    "z-image": ("z-image",),
    "krea2": ("krea2",),
    "kandinsky5": ("kandinsky5",),
    "stable-diffusion": ("diffusers",),
}
"""What messages call families with one transformer between them, and how their names begin."""

KIN = {"hunyuan-video", "hunyuan-video-1.5", "framepack"}
"""FramePack is built on HunyuanVideo, and takes LoRAs of it whose keys fit. HunyuanVideo 1.5 has the same names: real
ones are told by their sizes, which are alike in tiny models."""


def system(name: str) -> str:
    """What messages call the family `name`."""
    return next((label for label, begins in SYSTEMS.items() if name == label or name.startswith(begins)), name)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@cache
def loaded(name: str, directory: Path) -> tuple[NameTable, dict[str, torch.Size], Path, str]:
    """A family's names and shapes, a LoRA of it, and what messages call a model of it."""
    base = find(name)(tiny_model_spec(name, directory), torch.device("cpu"), torch.float32)
    base.load()
    names = base.lora_names()
    modules = once(linears(base.transformer, names, original=system(name) != "framepack"))
    path = write(musubi(modules, torch.Generator().manual_seed(0)), directory / f"{name}.safetensors")
    return names, dict(LoraMerger(base.transformer).shapes), path, base.lora_family


def once(modules: list[FileModule]) -> list[FileModule]:
    """Modules without those whose weights are there under another name, fused ones among them."""
    found: list[FileModule] = []
    seen: set[str] = set()
    for module in modules:
        live = {target.module for target in module.targets}
        if not live & seen:
            found.append(module)
            seen |= live
    return found


@pytest.mark.parametrize("trained", FAMILIES)
def test_a_lora_of_one_family_is_refused_by_the_others_with_both_names(trained: str, directory: Path) -> None:
    _, _, path, _ = loaded(trained, directory)
    for sampled in FAMILIES:
        names, shapes, _, called = loaded(sampled, directory)
        if system(sampled) != system(trained) and not {system(trained), system(sampled)} <= KIN:
            with pytest.raises(LoraMismatch) as refusal:
                read_lora(path, names, shapes, family=called)
            assert system(trained) in str(refusal.value)
            assert called in str(refusal.value)


def test_every_family_belongs_to_a_system() -> None:
    assert {system(name) for name in FAMILIES} == set(SYSTEMS)
