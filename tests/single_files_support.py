"""Model files as their publishers wrote them, made of tiny weights, with the configuration that shapes do not tell."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from golden_support import GOLDEN, SHARED, Case
from rushes_service.architectures import sources

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

    for name in ("build", "loaded"):
        original = getattr(sources, name)
        monkeypatch.setattr(sources, name, lambda *given, original=original: aligned(original(*given)))


assert all((GOLDEN / name).is_dir() for name in CASES)
