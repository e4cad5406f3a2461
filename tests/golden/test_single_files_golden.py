"""The recorded weights, given under their original names and by the trainers' own flags, make the recorded frames.

The same as the diffusers directory that the other tests make of them, bit for bit.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

import flux_support
import framepack_support
import hunyuan_support
import wan_support
from golden_support import Case, distance, sample, video
from rushes.wire.models import ModelSpec
from single_files_support import CASES, align, recorded_files

LATENTS_TOLERANCE = 1e-4
SUPPORT: dict[str, ModuleType] = {
    "wan": wan_support,
    "hunyuan": hunyuan_support,
    "skyreels": hunyuan_support,
    "framepack": framepack_support,
    "flux": flux_support,
}


def directory_of(case: Case, architecture: str, directory: Path) -> ModelSpec:
    """The recorded weights as a diffusers directory."""
    support = SUPPORT[case.name.partition("_")[0]]
    if support is flux_support:
        return flux_support.recorded_model(case, directory)
    return support.recorded_model(case, architecture, directory)


@pytest.mark.parametrize("name", CASES)
def test_original_files_make_the_frames_of_the_diffusers_directory_and_of_the_recording(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    align(monkeypatch)
    case, (architecture, _) = Case(name), CASES[name]
    support = SUPPORT[name.partition("_")[0]]
    whole = directory_of(case, architecture, tmp_path / "model")
    files = whole.model_copy(update={"model": None, **recorded_files(case, tmp_path / "files")})
    mixed = whole.model_copy(update={"dit": files.dit})
    takes = {}
    for kind, model in {"whole": whole, "files": files, "mixed": mixed}.items():
        denoised = sample(support.recorded_engine(case, model, tmp_path / kind), model, case.prompt())
        takes[kind] = (denoised.latents, video(denoised))
    for kind in ("files", "mixed"):
        assert torch.equal(takes[kind][0], takes["whole"][0]), kind
        assert torch.equal(takes[kind][1], takes["whole"][1]), kind
    assert distance(takes["files"][0], case.expected["base.final_latents"]) <= LATENTS_TOLERANCE
