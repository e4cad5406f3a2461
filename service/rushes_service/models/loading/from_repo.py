"""Where a base model's parts are: in a diffusers directory or a hub repository; for single files see `from_files`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils import logging as transformers_logging

from rushes._paths import expanded
from rushes.errors import ModelError, first_line
from rushes_service.models.loading.directories import build_directory, directory_header, incomplete
from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.files.quantisation import check_directory
from rushes_service.models.loading.filling import ON_CPU, Destination

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
INDEX = "model_index.json"
WEIGHTS = ("config.json", "*.safetensors", "*.index.json")
"""Files of a repository that is one part and nothing else."""

PICKLES = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5"]


class Source(Protocol):
    """The parts of one base model, by their names in diffusers' layout."""

    def component(self, name: str) -> Path:
        """The directory of a part; raises `ModelError`."""

    def place(self, name: str) -> Path:
        """The file or directory of a part, for messages; raises `ModelError`."""

    def index(self) -> Mapping[str, Any]:
        """What `model_index.json` says of the whole; empty if there is none."""

    def config(self, name: str, kind: Any) -> Mapping[str, Any]:
        """How a part, of class `kind`, is built; raises `ModelError`."""

    def load(
        self,
        name: str,
        kind: Any,
        dtype: torch.dtype | None = None,
        destination: Destination = ON_CPU,
        **given: Any,
    ) -> Any:
        """A part in `dtype`, by default on the CPU; raises `ModelError`.

        Args:
            kind: its class. Files know less than directories: `given` is what the family knows of its configuration.
        """

    def fingerprint(self, names: Sequence[str]) -> str:
        """Hex digest of the content identity of some parts."""


class Directories:
    """What holds for sources whose parts are directories."""

    def component(self, name: str) -> Path:
        """The directory of a part."""
        raise NotImplementedError

    def place(self, name: str) -> Path:
        """The same."""
        return self.component(name)

    def config(self, name: str, _kind: Any) -> Mapping[str, Any]:
        """What the `config.json` of a part says.

        Raises:
            ModelError: there is none, or it cannot be read.
        """
        return config_in(self.component(name))

    def load(
        self,
        name: str,
        kind: Any,
        dtype: torch.dtype | None = None,
        destination: Destination = ON_CPU,
        **_given: Any,
    ) -> Any:
        """A part, made of its directory.

        Raises:
            ModelError: it is not there, or cannot be read.
        """
        return loaded(self.component(name), kind, dtype, destination)


@dataclass(frozen=True)
class ModelSource(Directories):
    """A model in diffusers layout. `repo` is its hub id, None for a directory that was named itself."""

    directory: Path
    repo: str | None
    file_hashes: FileHashCache = field(default_factory=FileHashCache, compare=False)

    def component(self, name: str) -> Path:
        """The directory of one component, downloaded if it belongs to a hub model.

        Raises:
            ModelError: the model has no such component.
        """
        path = self.directory / name
        if self.repo is not None and not path.is_dir():
            download(self.repo, [name])
        if not path.is_dir() or not any(path.iterdir()):
            raise ModelError(f"{self.directory} has no {name}/: the model is incomplete")
        return path

    def index(self) -> Mapping[str, Any]:
        """What `model_index.json` says; raises `ModelError`."""
        with loading(self.directory / INDEX):
            return dict(json.loads((self.directory / INDEX).read_text()))

    def fingerprint(self, names: Sequence[str]) -> str:
        """Hex digest of the files of some components: by commit for a hub model, else by name, size and time.

        Components that are not there count as empty.
        """
        hasher = hashlib.sha256()
        if self.repo is not None:
            hasher.update(f"{self.repo}@{self.directory.name}".encode())
            return hasher.hexdigest()
        parts = [self.file_hashes.directory(self.directory / name, self.directory) for name in names]
        hasher.update(json.dumps(parts).encode())
        return hasher.hexdigest()


@dataclass(frozen=True)
class Published(Directories):
    """A model as its family publishes it; `transformer` is a repository of its own, if it is not with the rest."""

    rest: ModelSource
    transformer: str | None

    def component(self, name: str) -> Path:
        """The directory of a part; raises as `ModelSource.component`."""
        if name == "transformer" and self.transformer is not None:
            return download(self.transformer, WEIGHTS)
        return self.rest.component(name)

    def index(self) -> Mapping[str, Any]:
        """What `model_index.json` says; raises `ModelError`."""
        return self.rest.index()

    def fingerprint(self, names: Sequence[str]) -> str:
        """Hex digest of the repository's commit."""
        return self.rest.fingerprint(names)


def find_directory(
    name: str, pipelines: Collection[str], components: Sequence[str], file_hashes: FileHashCache | None = None
) -> ModelSource:
    """The diffusers directory or hub repository called `name`; arguments and errors as of `from_files.find_source`."""
    path = expanded(name)
    if path.is_dir():
        source = ModelSource(path, None, file_hashes or FileHashCache())
    elif HUB_ID.fullmatch(name):
        source = ModelSource(download(name, [INDEX, *components]), name)
    else:
        raise ModelError(f"{name}: there is no such directory, and it is no hub id either (owner/name)")
    check_index(source.directory / INDEX, pipelines)
    return source


def config_in(directory: Path) -> Mapping[str, Any]:
    """What the `config.json` of a part says.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    with loading(directory):
        return dict(json.loads((directory / "config.json").read_text()))


def loaded(directory: Path, kind: Any, dtype: torch.dtype | None, destination: Destination = ON_CPU) -> Any:
    """A part of a directory: read straight to where it is to lie, or by `kind.from_pretrained` where only that can.

    Raises:
        ModelError: it cannot be read, or lacks weights, which the loaders would make up at random.
        ConfigError: its weights cannot be kept as `destination` says.
    """
    check_directory(directory)
    with loading(directory):
        if (header := directory_header(directory, kind)) is not None:
            return build_directory(directory, header, kind, dtype, destination)
        model, found = kind.from_pretrained(directory, torch_dtype=dtype, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
        raise incomplete(directory, kind, missing)
    if destination.storage is not None:
        destination.storage.prepare(model)
        destination.storage.finish(model)
    return model.to(destination.device)


def download(repo: str, parts: Sequence[str]) -> Path:
    """The local snapshot directory of `repo`, with `parts` (files and directories) in it.

    Raises:
        ModelError: the hub cannot be reached and the files are not cached, or there is no such repository.
    """
    patterns = [pattern for part in parts for pattern in (part, f"{part}/*")]
    try:
        return Path(snapshot_download(repo, allow_patterns=patterns, ignore_patterns=PICKLES))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ModelError(
            f"{repo} is no directory here and could not be fetched from the hub ({first_line(error)}); "
            "give a diffusers directory with --rushes_model, or download the model first"
        ) from error


def check_index(index: Path, pipelines: Collection[str]) -> None:
    """Raise `ModelError` unless `index` is there and names one of `pipelines`."""
    try:
        found = json.loads(index.read_text())["_class_name"]
    except FileNotFoundError:
        raise ModelError(f"{index.parent} is no diffusers model: it has no {index.name}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{index} cannot be read: {first_line(error)}") from error
    if found not in pipelines:
        raise ModelError(
            f"{index.parent} holds a {found}, but this architecture needs {' or '.join(sorted(pipelines))}"
        )


def quiet_loading_bars() -> None:
    """Keep the loaders' progress bars out of a worker's log."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
