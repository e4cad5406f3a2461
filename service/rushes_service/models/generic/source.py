"""A pipeline's directory or repository: which class samples it, and what its parts are made of."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn
from transformers import T5EncoderModel

from rushes._paths import expanded
from rushes.errors import ModelError, first_line
from rushes.families.spec import ArchitectureSpec
from rushes.wire.models import ModelSpec
from rushes_service.lora.reading.keys import TEXT
from rushes_service.lora.targets import TextTable
from rushes_service.lora.text_encoders import text_table
from rushes_service.models.generic.names import text_names
from rushes_service.models.generic.single_file import CheckpointSource, checked_file, parts_held
from rushes_service.models.loading.building import empty
from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.files.headers import Header
from rushes_service.models.loading.filling import ON_CPU, Destination
from rushes_service.models.loading.from_files import given_files
from rushes_service.models.loading.from_repo import INDEX, ModelSource, check_variant, model_source
from rushes_service.models.loading.hub import download

ENCODERS = ("text_encoder",)
"""What the names of parts begin with that are loaded only while a text is new. Encoders of pictures stay: pipelines ask
them in every call."""

T5_NAME = f"{TEXT}_3"
"""What kohya's trainers call T5, however many encoders there are before it."""

ABSENT = ("safety_checker",)
"""What is left out with `--dit`."""

BACKBONES = ("transformer", "unet")
"""What the part that denoises is called."""


@dataclass(frozen=True)
class PipelineFiles:
    """Where a pipeline's parts are, and which classes they and the pipeline have.

    `parts` holds library and class of each part, by its name in `model_index.json`.
    """

    source: ModelSource | CheckpointSource
    kind: Any
    parts: Mapping[str, tuple[str, str]]
    absent: tuple[str, ...] = ()
    """Parts that are left out: files of pipelines hold no safety checker."""

    @property
    def signature(self) -> Mapping[str, inspect.Parameter]:
        """Arguments of the pipeline's `__call__`."""
        return inspect.signature(self.kind.__call__).parameters

    def modules(self, *, encoders: bool) -> dict[str, Any]:
        """Classes of the parts with weights, by name: the encoders, or all others."""
        found = {name: part_class(*part) for name, part in self.parts.items() if name.startswith(ENCODERS) is encoders}
        return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, nn.Module)}

    def load(
        self, names: Mapping[str, Any], dtype: torch.dtype, destination: Destination, backbone: Destination = ON_CPU
    ) -> dict[str, Any]:
        """Parts by name; the transformer or UNet at `backbone`, all others at `destination`. Raises `ModelError`."""
        places = dict.fromkeys(BACKBONES, backbone)
        return {
            name: self.source.load(name, kind, dtype, places.get(name, destination)).eval()
            for name, kind in names.items()
        }

    def text_tables(self) -> dict[str, TextTable]:
        """What modules of the text encoders are called in LoRA files, by the name that keys have for each encoder.

        Raises:
            ModelError: an encoder's configuration is not there, or cannot be read.
        """
        found: dict[str, TextTable] = {}
        for name, kind in self.modules(encoders=True).items():
            with torch.device("meta"), loading(Path(name)):
                model = empty(kind, self.source.config(name, kind))
            found[name] = text_table(name, model, text_names(model))
            if issubclass(kind, T5EncoderModel):
                found.setdefault(T5_NAME, found[name])
        return found

    def texts_fingerprint(self) -> str:
        """Hex digest of all that embeddings depend on in the files."""
        names = [name for name in self.parts if name.startswith((*ENCODERS, "tokenizer"))]
        return self.source.fingerprint(names)


def find_pipeline(model: ModelSpec, spec: ArchitectureSpec, file_hashes: FileHashCache) -> PipelineFiles:
    """The pipeline that `model` names; of a repository all but the encoders' weights is fetched.

    Raises:
        ModelError: it is not there, is none that this diffusers has, or cannot be followed step by step.
    """
    given_files(model, spec)  # a file for another family is an error
    files = {flag: checked_file(expanded(path), f"--{flag}") for flag in spec.weights if (path := getattr(model, flag))}
    name = model.model or spec.hub_id
    source = model_source(name, file_hashes, model.variant)
    try:
        index = dict(source.index())
        parts = {part: (str(of[0]), str(of[1])) for part, of in index.items() if is_part(of)}
        kind = getattr(diffusers, str(index["_class_name"]), None)
    except (ModelError, KeyError, IndexError, ValueError) as error:
        raise ModelError(f"{name} is no diffusers model: {INDEX} cannot be read ({first_line(error)})") from error
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise ModelError(f"{name} holds a {index['_class_name']}, which diffusers {diffusers.__version__} has not")
    check_variant(source, ())
    found = PipelineFiles(source, kind, parts)
    check(found)
    if files:
        found = with_files(found, source, files)
    held = found.source.held if isinstance(found.source, CheckpointSource) else ()
    if source.repo is not None:
        wanted = [part for part in found.parts if not part.startswith(ENCODERS) and part not in held]
        download(source.repo, wanted, model.variant)
    return found


def with_files(files: PipelineFiles, source: ModelSource, given: Mapping[str, Header]) -> PipelineFiles:
    """A pipeline of whose parts some lie in files.

    Args:
        given: those that `--dit` and `--vae` name.

    Raises:
        ModelError: a configuration is not there.
    """
    absent = tuple(name for name in ABSENT if name in files.parts) if "dit" in given else ()
    parts = {name: part for name, part in files.parts.items() if name not in absent}
    files = replace(files, parts=parts, absent=absent)
    modules = {**files.modules(encoders=False), **files.modules(encoders=True)}
    if source.repo is not None:
        download(source.repo, [f"{name}/config.json" for name in modules])
    held: dict[str, Header] = {}
    if "dit" in given:
        (backbone_name,) = (name for name in modules if name in BACKBONES)
        others = {name: kind for name, kind in modules.items() if name not in BACKBONES}
        held = dict.fromkeys((backbone_name, *parts_held(given["dit"], others, source)), given["dit"])
    if "vae" in given:
        held["vae"] = given["vae"]
    return replace(files, source=CheckpointSource(source, held))


def is_part(entry: Any) -> bool:
    """True for what `model_index.json` says of a part: its library and its class. Other entries are settings."""
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)


def check(files: PipelineFiles) -> None:
    """Raise `ModelError` for a pipeline that cannot be sampled here."""
    name = files.kind.__name__
    if "prompt" not in files.signature or not hasattr(files.kind, "encode_prompt"):
        raise ModelError(f"{name} takes no prompt that is encoded by itself: it cannot be sampled")
    if not hasattr(files.kind, "prepare_latents"):
        raise ModelError(f"{name} has no prepare_latents to part texts from noise: it cannot be sampled")
    transformers = [part for part in files.parts if part.startswith(("transformer", "unet", "prior"))]
    if len(transformers) != 1 or transformers[0] not in BACKBONES or "vae" not in files.parts:
        found = " and ".join(transformers) or "neither"
        raise ModelError(f"{name} must have one transformer or unet and a vae to be sampled; it has {found}")


def part_class(library: str, name: str) -> Any:
    """The class of a part; None for one of a pipeline's own code, which is not a module of weights here.

    Raises:
        ModelError: it is of a library that is not diffusers or transformers, whose code is not run.
    """
    if library not in ("diffusers", "transformers"):
        if hasattr(diffusers.pipelines, library):
            return getattr(getattr(diffusers.pipelines, library), name, None)
        raise ModelError(f"a part of the model is a {name} of {library}: only diffusers and transformers are known")
    with loading(Path(INDEX)):
        return getattr(importlib.import_module(library), name)


def backbone(pipe: Any) -> Any:
    """The transformer, or the UNet."""
    return pipe.transformer if "transformer" in pipe.components else pipe.unet
