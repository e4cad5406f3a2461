"""Recorded cases of picture families: their files under original names, and recorded embeddings as a full cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from golden_support import SHARED, Case, without_prefix
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.registry import find
from rushes_service.runtime.devices import resolve_dtype
from single_files_support import with_config


def recorded_model(case: Case, architecture: str, directory: Path, vae: str, **fields: Any) -> ModelSpec:
    """The recorded transformer and VAE of a case as single files, upcast: some are stored in half their precision.

    Args:
        vae: name of the VAE's file in `_shared`.
        fields: further fields of the `ModelSpec`.
    """
    sources = {"transformer": transformer_file(case), "vae": SHARED / f"{vae}.safetensors"}
    directory.mkdir(parents=True, exist_ok=True)
    found = {}
    for part, flag in (("transformer", "dit"), ("vae", "vae")):
        described = case.facts["diffusers"][part]
        path = directory / f"{flag}.safetensors"
        save_file({name: tensor.float() for name, tensor in load_file(sources[part]).items()}, path)
        found[flag] = str(with_config(path, described["cls"], described["kwargs"]))
    return ModelSpec(architecture=architecture, **found, **fields)


def transformer_file(case: Case) -> Path:
    """Where the weights of a case lie."""
    own = case.directory / "dit.safetensors"
    return own if own.exists() else case.directory / case.facts["files"]["dit"]


def recorded_engine(case: Case, model: ModelSpec, cache: Path, texts: Mapping[str, dict[str, torch.Tensor]]) -> Engine:
    """An engine whose cache holds the embeddings of `texts`; there is no text encoder at all."""
    engine = Engine("cpu", cache)
    base = find(model.architecture)(model, engine.device, resolve_dtype(model.dtype, engine.device))
    for text, tensors in texts.items():
        engine.conditioning.write(base.text_key(text), tensors)  # type: ignore[attr-defined]
    return engine


def sigmas_of(denoised: Any) -> torch.Tensor:
    """The noise levels that a receipt tells."""
    return torch.tensor(denoised.facts()["sigmas"])


def recorded_runs(case: Case, *, but: tuple[str, ...] = ()) -> dict[str, str]:
    """Prompt files of the recorded runs, without those called `but`."""
    return {name: run["prompts_file"] for name, run in case.facts["runs"].items() if name not in but}


def expected(case: Case, run: str) -> dict[str, torch.Tensor]:
    """What was recorded of a run."""
    return without_prefix(case.expected, f"{run}.")
