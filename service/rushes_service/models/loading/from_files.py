"""Base models of which some parts are given by flags of their own, and the choice among all kinds of source.

A single file replaces its part of the directory or repository that is named, or else of what the family is published
as, which is only looked for when a part is needed that no file gives.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from rushes._paths import expanded
from rushes.errors import ModelError
from rushes.families.spec import ArchitectureSpec, ModelFile
from rushes.families.table import ARCHITECTURES
from rushes.wire.models import ModelSpec
from rushes_service.models import rooms
from rushes_service.models.loading.build_plans import build_plan_for, plan
from rushes_service.models.loading.building import build
from rushes_service.models.loading.directories import config_in, loaded
from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.files.headers import Header, read_header
from rushes_service.models.loading.files.kinds import check_file_kind
from rushes_service.models.loading.files.quantisation import check_quantisation
from rushes_service.models.loading.files.variants import chosen_in
from rushes_service.models.loading.filling import ON_CPU, Destination
from rushes_service.models.loading.from_repo import (
    ModelSource,
    Published,
    Source,
    check_variant,
    find_directory,
)
from rushes_service.models.loading.hub import HUB_ID, download

ENCODER = ("*.json", "*.safetensors", "*.txt")
"""Files of a repository that is an encoder with its tokenizer."""


def processors() -> Mapping[str, tuple[str, Path]]:
    """Parts that are known beforehand when another part is a single file: that part, and what they then are."""
    return {
        name: (part, rooms.published(directory))
        for room in rooms.declared().values()
        for name, (part, directory) in room.processors.items()
    }


class FileSource:
    """A model of which some parts are given by flags of their own: single files, or directories of one part.

    Args:
        files: what files the family takes.
        given: those that are given, and where they are.
        rest: finds where the other parts are; asked when one is needed.
        file_hashes: what is known of files that are gone; an encoder's may never be needed.
        variant: the one that is asked for, of weights in directories.

    Raises:
        ModelError: a file is not there and never was, or holds something else than its flag is for.
    """

    def __init__(
        self,
        files: Sequence[ModelFile],
        given: Mapping[ModelFile, Path],
        rest: Callable[[], Source],
        file_hashes: FileHashCache | None = None,
        variant: str | None = None,
    ) -> None:
        self._variant = variant
        self._variants: dict[str, str] = {}
        self._file_hashes = file_hashes or FileHashCache()
        self._gone: dict[str, str] = {}
        """Fingerprints of parts whose files are gone."""
        self._flags = {file.component: file.flag for file in files}
        self._given = {file.component: (file, path) for file, path in given.items()}
        self._find_rest = rest
        self._headers = {file.component: checked_header(file, path) for file, path in given.items() if path.is_file()}
        for file, path in given.items():
            if on_hub(file, path) or (path.exists() and (path.is_dir() or file.kinds)):
                continue
            if not path.exists() and file.kinds and (known_as := self._file_hashes.gone(path)):
                self._gone[file.component] = str(known_as)
                continue
            raise not_there(file, path)

    @cached_property
    def _rest(self) -> Source:
        return self._find_rest()

    @property
    def variants(self) -> Mapping[str, str]:
        """See `Source.variants`."""
        return {**(self._rest.variants if "_rest" in vars(self) else {}), **self._variants}

    def component(self, name: str) -> Path:
        """The directory of a part: named by its own flag, beside its encoder, or of the rest of the model.

        Raises:
            ModelError: it is nowhere.
        """
        if name in self._given:
            file, path = self._given[name]
            if path.is_file():
                raise ModelError(f"--{file.flag} {path} is a file, where a directory is needed")
            if name in self._gone:
                raise not_there(file, path)
            path = self._local(file, path)
            return path / name if (path / name).is_dir() else path
        if name.startswith("tokenizer") and (beside := self._tokenizer_beside(name)):
            return beside
        encoder, known = processors().get(name, ("", Path()))
        return known if self._is_file(encoder) else self._elsewhere(name, lambda: self._rest.component(name))

    def index(self) -> Mapping[str, Any]:
        """What the rest of the model says of the whole; nothing if there is no rest."""
        try:
            return self._rest.index()
        except ModelError:
            return {}

    def place(self, name: str) -> Path:
        """The file or directory of a part; raises as `component`."""
        return self._headers[name].path if name in self._headers else self.component(name)

    def config(self, name: str, kind: Any) -> Mapping[str, Any]:
        """How a part is built, told from the shapes in its file.

        Raises:
            ModelError: it is nowhere, or of no known size.
        """
        if name in self._headers:
            return plan(self._headers[name], build_plan_for(kind)).config
        if name in self._given:
            return config_in(self.component(name))
        return self._elsewhere(name, lambda: self._rest.config(name, kind))

    def load(
        self,
        name: str,
        kind: Any,
        dtype: torch.dtype | None = None,
        destination: Destination = ON_CPU,
        **given: Any,
    ) -> Any:
        """A part, made from its file.

        Raises:
            ModelError: it is nowhere, incomplete, or of another model.
        """
        if name in self._headers:
            with loading(self._headers[name].path):
                return build(self._headers[name], kind, dtype, given, destination)
        if name in self._given:
            directory = self.component(name)
            made = loaded(directory, kind, dtype, destination, self._variant)
            if variant := chosen_in(directory, self._variant):
                self._variants[name] = variant
            return made
        return self._elsewhere(name, lambda: self._rest.load(name, kind, dtype, destination, **given))

    def fingerprint(self, names: Sequence[str]) -> str:
        """Hex digest of the content identity of some parts: for a file its path, size, time and header."""
        found = []
        for name in names:
            if name in self._headers:
                found.append(self._headers[name].fingerprint)
                self._file_hashes.note(self._headers[name].path, found[-1])
            elif name in self._gone:
                found.append(self._gone[name])
            elif name in self._given:
                found.append(self._given_fingerprint(name))
            elif name in processors() and self._is_file(processors()[name][0]):
                found.append(name)
            else:
                found.append(self._rest_fingerprint(name))
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()

    def _is_file(self, name: str) -> bool:
        """True if a part is, or was, a single file."""
        return name in self._headers or name in self._gone

    def _given_fingerprint(self, name: str) -> str:
        """Content identity of a directory, or the name of a repository: nothing is fetched for a full cache."""
        file, path = self._given[name]
        if on_hub(file, path):
            return f"{path}#{self._variant}" if self._variant else str(path)
        return self._file_hashes.directory(self.component(name), variant=self._variant)

    def _rest_fingerprint(self, name: str) -> str:
        """Content identity of a part that no file gives, without raising: it may never be needed."""
        try:
            return self._rest.fingerprint((name,))
        except ModelError:
            return "not here"

    def _tokenizer_beside(self, name: str) -> Path | None:
        """The directory that an encoder's flag names, if its tokenizer lies there, too."""
        file, path = self._given.get(name.replace("tokenizer", "text_encoder"), (None, Path()))
        if file is None:
            return None
        path = self._local(file, path)
        return path if (path / "tokenizer_config.json").is_file() else None

    def _local(self, file: ModelFile, path: Path) -> Path:
        """Where a part lies, fetched if a flag names its repository; raises `ModelError`."""
        return download(path.as_posix(), ENCODER, self._variant) if on_hub(file, path) else path

    def _elsewhere(self, name: str, ask: Callable[[], Any]) -> Any:
        """A part of the rest of the model; if it is nowhere, the error says which flag gives it."""
        try:
            return ask()
        except ModelError as error:
            if name not in self._flags:
                raise
            kind = "directory" if name.startswith("tokenizer") else "file"
            raise ModelError(f"no {name}: give its {kind} with --{self._flags[name]}, or fix this: {error}") from error


def on_hub(file: ModelFile, path: Path) -> bool:
    """True if what a flag names is a repository."""
    return file.hub and not path.exists() and HUB_ID.fullmatch(path.as_posix()) is not None


def not_there(file: ModelFile, path: Path) -> ModelError:
    """What to say of a file or directory that a flag names and that is not there."""
    return ModelError(f"--{file.flag} {path}: there is no such {'file' if file.kinds else 'directory'}")


def checked_header(file: ModelFile, path: Path) -> Header:
    """The header of a file that a flag names, once it is known to hold what the flag is for."""
    header = read_header(path)
    check_file_kind(header, file.kinds, f"--{file.flag}")
    check_quantisation(header)
    return header


def given_files(model: ModelSpec, spec: ArchitectureSpec) -> dict[ModelFile, Path]:
    """The parts of `model` that have flags of their own.

    Raises:
        ModelError: a flag is given that is for another family.
    """
    known = {*(file.flag for file in spec.files), *spec.weights}
    flags = {file.flag for other in ARCHITECTURES.values() for file in other.files}
    if foreign := sorted(flag for flag in flags - known if getattr(model, flag) is not None):
        takes = ", ".join(f"--{flag}" for flag in (*(file.flag for file in spec.files), *spec.weights))
        raise ModelError(f"--{foreign[0]} is for another family: {spec.name} takes {takes}")
    given = {file: path for file in spec.files if (path := getattr(model, file.flag)) is not None}
    return {file: expanded(path) for file, path in given.items()}


def find_source(
    model: ModelSpec,
    spec: ArchitectureSpec,
    pipelines: Collection[str],
    components: Sequence[str],
    file_hashes: FileHashCache | None = None,
) -> Source:
    """The parts of `model`: its files, and for the rest its directory or repository, by default what is published.

    Args:
        pipelines: classes that `model_index.json` may name.
        components: what to bring from the hub at once; the rest comes when it is needed.
        file_hashes: what is known of files that are gone.

    Raises:
        ModelError: not there, or of another family.
    """
    file_hashes = file_hashes or FileHashCache()
    given = given_files(model, spec)

    def whole(name: str) -> ModelSource:
        found = find_directory(name, pipelines, () if given else components, file_hashes, model.variant)
        check_variant(found, given.values())
        return found

    if model.model is None:

        def published() -> Source:
            return Published(whole(spec.hub_id), spec.transformer_hub_id)

        return FileSource(spec.files, given, published, file_hashes, model.variant) if given else published()
    named = whole(model.model)
    return FileSource(spec.files, given, lambda: named, file_hashes, model.variant) if given else named
