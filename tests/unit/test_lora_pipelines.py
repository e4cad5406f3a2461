"""LoRAs of one pipeline of diffusers given to another one and to the families: refused, by both names if it is told."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from family_support import FAMILIES, tiny_model_spec
from lora_support import linears, musubi, write
from rushes.errors import LoraError, LoraMismatch
from rushes_service.lora.merge import LoraMerger
from rushes_service.lora.reading import read_lora
from rushes_service.lora.targets import NameTable, name_table
from rushes_service.models.generic.names import family_of, original_names
from rushes_service.models.generic.source import backbone
from rushes_service.models.generic.tiny import PIPELINES as OURS
from rushes_service.models.registry import find
from tiny_pipelines import PIPELINES as OTHERS

PIPELINES = {**OURS, **{name: make for name, make in OTHERS.items() if name != "ltx-i2v"}}

SAID = {
    "sdxl": "stable-diffusion-xl-v1-base/lora",
    "sd3": "stable-diffusion-3-medium/lora",
    "flux": "flux-1-dev/lora",
    "chroma": "chroma",
    "lumina2": "lumina-2",
    "sana": "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
    "pixart": "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
    "hidream": "HiDream-ai/HiDream-I1-Full",
    "ltx": "Lightricks/LTX-Video",
    "ltx2": "Lightricks/LTX-2",
    "cogvideox": "THUDM/CogVideoX-5b",
    "animatediff": "stable-diffusion-v1-5",
}
"""What headers of their LoRAs say."""

OF_FLUX = ("flux", "flux1-kontext")
"""These have one transformer between them."""


@dataclass(frozen=True)
class Trained:
    """A model as LoRA files see it, and what messages call it."""

    names: NameTable
    shapes: dict[str, torch.Size]
    family: str
    module: nn.Module


@cache
def pipeline(name: str) -> Trained:
    pipe = PIPELINES[name]()
    module = backbone(pipe)
    names = name_table(module, original_names(module))
    return Trained(names, dict(LoraMerger(module).shapes), family_of(type(pipe).__name__), module)


def write_lora(name: str, path: Path, header: dict[str, str]) -> Path:
    """A LoRA of a pipeline's attention, in diffusers' names."""
    tensors = {}
    for module, layer in pipeline(name).module.named_modules():
        if isinstance(layer, nn.Linear) and module.rpartition(".")[2] in ("to_q", "to_k", "to_v"):
            rows, columns = layer.weight.shape
            tensors[f"transformer.{module}.lora_A.weight"] = torch.ones(2, columns)
            tensors[f"transformer.{module}.lora_B.weight"] = torch.ones(rows, 2)
    save_file(tensors, path, metadata=header)
    return path


@pytest.mark.parametrize("trained", SAID)
def test_a_lora_that_says_what_it_is_for_is_read_there_and_refused_by_others_with_both_names(trained, tmp_path):
    path = write_lora(trained, tmp_path / "lora.safetensors", {"modelspec.architecture": SAID[trained]})
    for sampled in PIPELINES:
        there = pipeline(sampled)
        if sampled == trained:
            assert read_lora(path, there.names, there.shapes, family=there.family).report.unmatched == 0
            continue
        with pytest.raises(LoraMismatch) as refusal:
            read_lora(path, there.names, there.shapes, family=there.family)
        assert pipeline(trained).family in str(refusal.value)
        assert there.family in str(refusal.value)


@pytest.mark.parametrize("trained", PIPELINES)
def test_a_lora_that_says_nothing_is_read_by_its_own_pipeline_and_never_in_part_by_others(trained, tmp_path):
    path = write_lora(trained, tmp_path / "lora.safetensors", {})
    for sampled in PIPELINES:
        there = pipeline(sampled)
        try:
            found = read_lora(path, there.names, there.shapes, family=there.family)
        except LoraError:
            assert sampled != trained
        else:
            assert found.report.unmatched == 0


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.mark.parametrize("name", ["wan2.1-t2v", "hunyuan-video", "flux1-kontext", "qwen-image", "z-image"])
def test_loras_of_pipelines_and_of_families_are_refused_by_each_other(name, directory, tmp_path):
    assert name in FAMILIES
    base = find(name)(tiny_model_spec(name, directory), torch.device("cpu"), torch.float32)
    base.load()
    names, shapes = base.lora_names(), dict(LoraMerger(base.transformer).shapes)
    modules = linears(base.transformer, names, original=True)[:8]
    own = write(musubi(modules, torch.Generator().manual_seed(0)), tmp_path / "own.safetensors")
    for other in SAID:
        if other in OF_FLUX and name in OF_FLUX:
            continue
        there = pipeline(other)
        with pytest.raises(LoraError) as refusal:
            read_lora(own, there.names, there.shapes, family=there.family)
        assert there.family in str(refusal.value)
        told = write_lora(other, tmp_path / f"{other}.safetensors", {"modelspec.architecture": SAID[other]})
        with pytest.raises(LoraMismatch) as refusal:
            read_lora(told, names, shapes, family=base.lora_family)
        assert there.family in str(refusal.value)
        assert base.lora_family in str(refusal.value)
