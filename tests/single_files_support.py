"""Model files as their publishers wrote them, made of tiny weights, with the configuration that shapes do not tell."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from golden_support import GOLDEN, SHARED, Case
from rushes.families.spec import ArchitectureSpec
from rushes_service.lora.targets import SWAPPED
from rushes_service.models.loading import from_files, from_repo
from rushes_service.models.loading.build_plans import build_plans
from rushes_service.models.loading.files.naming import spellings

CASES = {
    "wan_t2v": ("wan2.1-t2v", "wan_vae"),
    "wan_i2v": ("wan2.1-i2v", "wan_vae"),
    "wan_fun_control_t2v": ("wan2.1-fun-control", "wan_vae"),
    "wan_fun_control_i2v": ("wan2.1-fun-control", "wan_vae"),
    "hunyuan_t2v": ("hunyuan-video", "hv_vae"),
    "skyreels_t2v": ("skyreels-v1-t2v", "hv_vae"),
    "skyreels_i2v": ("skyreels-v1-i2v", "hv_vae"),
    "framepack_i2v": ("framepack", "hv_vae"),
    "framepack_f1": ("framepack", "hv_vae"),
    "framepack_one_frame": ("framepack-one-frame", "hv_vae"),
    "flux_kontext": ("flux1-kontext", "flux_ae"),
}
"""Recorded cases: the family of each, and which VAE it was recorded with."""


def with_config(file: Path, kind: str, config: dict[str, Any]) -> Path:
    """`file`, described by a configuration beside it: it is far smaller than anything published."""
    file.with_suffix(".config.json").write_text(json.dumps({"_class_name": kind, **config}))
    return file


def recorded_files(case: Case, directory: Path) -> dict[str, str]:
    """The recorded transformer and VAE of a case under their original names: paths by flag."""
    _, vae = CASES[case.name]
    own = case.directory / "dit.safetensors"
    sources = {
        "transformer": own if own.exists() else SHARED / "framepack_dit.safetensors",
        "vae": SHARED / f"{vae}.safetensors",
    }
    directory.mkdir(parents=True, exist_ok=True)
    found = {}
    for part, flag in (("transformer", "dit"), ("vae", "vae")):
        described = case.facts["diffusers"][part]
        copy = Path(shutil.copy(sources[part], directory / f"{flag}.safetensors"))
        found[flag] = str(with_config(copy, described["cls"], described["kwargs"]))
    return found


def align(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every weight that is loaded lies at the beginning of memory of its own.

    Weights read from files lie as in the files, and CPU kernels round the same numbers differently by that.
    """

    def aligned(model: nn.Module) -> nn.Module:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return model

    for module, name in ((from_files, "build"), (from_files, "loaded"), (from_repo, "loaded")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, original=original: aligned(original(*given)))


def original_files(spec: ArchitectureSpec, model: Path, directory: Path) -> dict[str, str]:
    """The parts of a diffusers directory as the files that the family's flags name: paths by flag."""
    directory.mkdir(parents=True, exist_ok=True)
    found = {}
    for file in spec.files:
        part = model / file.component
        if file.kinds and part.is_dir() and "llava" not in config_of(part).get("model_type", ""):
            found[file.flag] = str(original_file(part, directory / f"{file.flag}.safetensors"))
        elif not file.kinds and part.is_dir():
            found[file.flag] = str(part)
    return found


def config_of(part: Path) -> dict[str, Any]:
    return json.loads((part / "config.json").read_text())


def original_file(part: Path, path: Path) -> Path:
    """The weights of one part under the names of its first release, by the tables that files are read with."""
    config = config_of(part)
    kind = config.get("_class_name") or config["architectures"][0]
    rule = build_plans()[kind].rule(config)
    (weights,) = part.glob("*.safetensors")
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(weights).items():
        key, number = next(iter(spellings(name, rule)))
        parts.setdefault(key, {})[number] = torch.cat(tensor.chunk(2)[::-1]) if number == SWAPPED else tensor
    save_file({key: joined([found[number] for number in sorted(found)]) for key, found in parts.items()}, path)
    return with_config(path, kind, {key: value for key, value in config.items() if not key.startswith("_")})


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Parts of one tensor, one after another; counters have no rows."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


assert all((GOLDEN / name).is_dir() for name in CASES)
