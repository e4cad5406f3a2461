"""Where a base model's parts are: in a diffusers directory or a hub repository; for single files see `from_files`."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from rushes._paths import expanded
from rushes.errors import ModelError, first_line
from rushes_service.models.loading.directories import config_in, loaded
from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.files.variants import (
    PLAIN,
    check_asked,
    chosen_in,
    files_in,
    files_of_parts,
    variants_among,
)
from rushes_service.models.loading.filling import ON_CPU, Destination
from rushes_service.models.loading.hub import HUB_ID, download, names_on_hub

INDEX = "model_index.json"
WEIGHTS = ("config.json", "*.safetensors", "*.index*.json")
"""Files of a repository that is one part and nothing else."""


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

    @property
    def variants(self) -> Mapping[str, str]:
        """Parts that were loaded from weights of a variant, by name, and which that is."""


class Directories:
    """What holds for sources whose parts are directories. `variant` is the one that is asked for."""

    variant: str | None

    @cached_property
    def variants(self) -> dict[str, str]:
        """Parts that were loaded from weights of a variant, by name, and which that is."""
        return {}

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
        directory = self.component(name)
        made = loaded(directory, kind, dtype, destination, self.variant)
        if variant := chosen_in(directory, self.variant):
            self.variants[name] = variant
        return made


@dataclass(frozen=True)
class ModelSource(Directories):
    """A model in diffusers layout. `repo` is its hub id, None for a directory that was named itself.

    `variant` is the one that is asked for, of whatever parts have it.
    """

    directory: Path
    repo: str | None
    file_hashes: FileHashCache = field(default_factory=FileHashCache, compare=False)
    variant: str | None = None

    def component(self, name: str) -> Path:
        """The directory of one component, downloaded if it belongs to a hub model.

        Raises:
            ModelError: the model has no such component.
        """
        path = self.directory / name
        if self.repo is not None and not self._is_here(path):
            download(self.repo, [name], self.variant)
        if not path.is_dir() or not any(path.iterdir()):
            raise ModelError(f"{self.directory} has no {name}/: the model is incomplete")
        return path

    def _is_here(self, path: Path) -> bool:
        """True if a part was fetched, with the weights that are to be read: others may have been before."""
        found = variants_among(files_in(path))
        return path.is_dir() and (not found or (self.variant or PLAIN) in found)

    def _expected(self, path: Path) -> str:
        """The variant of a part, as far as is known before it is fetched."""
        if not self._is_here(path) and self.variant is not None:
            return self.variant
        with contextlib.suppress(ModelError):  # said where it is loaded
            return chosen_in(path, self.variant)
        return PLAIN

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
            if variants := {name: variant for name in names if (variant := self._expected(self.directory / name))}:
                hasher.update(json.dumps(variants).encode())
            return hasher.hexdigest()
        parts = [self.file_hashes.directory(self.directory / name, self.directory, self.variant) for name in names]
        hasher.update(json.dumps(parts).encode())
        return hasher.hexdigest()


@dataclass(frozen=True)
class Published(Directories):
    """A model as its family publishes it; `transformer` is a repository of its own, if it is not with the rest."""

    rest: ModelSource
    transformer: str | None

    @property
    def variant(self) -> str | None:  # type: ignore[override]
        """The variant that is asked for."""
        return self.rest.variant

    def component(self, name: str) -> Path:
        """The directory of a part; raises as `ModelSource.component`."""
        if name == "transformer" and self.transformer is not None:
            return download(self.transformer, WEIGHTS, self.variant)
        return self.rest.component(name)

    def index(self) -> Mapping[str, Any]:
        """What `model_index.json` says; raises `ModelError`."""
        return self.rest.index()

    def fingerprint(self, names: Sequence[str]) -> str:
        """Hex digest of the repository's commit."""
        return self.rest.fingerprint(names)


def find_directory(
    name: str,
    pipelines: Collection[str],
    components: Sequence[str],
    file_hashes: FileHashCache | None = None,
    variant: str | None = None,
) -> ModelSource:
    """The diffusers directory or hub repository called `name`; arguments and errors as of `from_files.find_source`.

    Args:
        variant: the one that is asked for.
    """
    source = model_source(name, file_hashes or FileHashCache(), variant, components)
    check_index(source.directory / INDEX, pipelines)
    return source


def model_source(
    name: str, file_hashes: FileHashCache, variant: str | None, components: Sequence[str] = ()
) -> ModelSource:
    """The directory or hub repository called `name`, of whatever pipeline.

    Raises:
        ModelError: it is neither, or cannot be fetched.
    """
    path = expanded(name)
    if path.is_dir():
        return ModelSource(path, None, file_hashes, variant)
    if HUB_ID.fullmatch(name):
        return ModelSource(download(name, [INDEX, *components], variant), name, file_hashes, variant)
    raise ModelError(f"{name}: there is no such directory, and it is no hub id either (owner/name)")


def check_variant(source: ModelSource, given: Iterable[Path]) -> None:
    """Raise `ModelError` if no part of a model has weights of the variant that is asked for.

    Args:
        given: files and directories that replace some of its parts.
    """
    if source.variant is None:
        return
    names = (source.repo and names_on_hub(source.repo)) or files_of_parts(source.directory)
    more = [name for path in given for name in files_of_parts(path)]
    check_asked(source.repo or source.directory, [*names, *more], source.variant)


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
