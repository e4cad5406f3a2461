"""Where a base model's files are: a diffusers directory, or a hub repository brought into the local cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from rushes.errors import ModelError
from rushes.jobs import ModelSpec

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
INDEX = "model_index.json"
SINGLE_FILES = ("dit", "vae", "text_encoder1", "text_encoder2", "t5", "clip", "image_encoder")
PICKLES = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5"]


@dataclass(frozen=True)
class ModelSource:
    """A model in diffusers layout. `repo` is its hub id, None for a directory that was named itself."""

    directory: Path
    repo: str | None

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

    def fingerprint(self, names: Sequence[str]) -> str:
        """Hex digest of the files of some components: by commit for a hub model, else by name, size and time.

        Components that are not there count as empty.
        """
        hasher = hashlib.sha256()
        if self.repo is not None:
            hasher.update(f"{self.repo}@{self.directory.name}".encode())
            return hasher.hexdigest()
        for file in sorted(file for name in names for file in (self.directory / name).rglob("*") if file.is_file()):
            facts = file.stat()
            entry = [file.relative_to(self.directory).as_posix(), facts.st_size, facts.st_mtime_ns]
            hasher.update(json.dumps(entry).encode())
        return hasher.hexdigest()


def find_source(model: ModelSpec, hub_id: str, pipelines: Collection[str], components: Sequence[str]) -> ModelSource:
    """The files of `model`, or of `hub_id` if it names none.

    Args:
        pipelines: classes that `model_index.json` may name.
        components: what to bring from the hub at once; the rest comes when it is needed.

    Raises:
        ModelError: not there, of another family, or given by flags that are not supported.
    """
    refuse_single_files(model)
    name = model.model or hub_id
    path = Path(name).expanduser()
    if path.is_dir():
        source = ModelSource(path, None)
    elif HUB_ID.fullmatch(name):
        source = ModelSource(download(name, [INDEX, *components]), name)
    else:
        raise ModelError(f"{name}: there is no such directory, and it is no hub id either (owner/name)")
    check_index(source.directory / INDEX, pipelines)
    return source


def refuse_single_files(model: ModelSpec) -> None:
    """Raise `ModelError` for weights given as single files."""
    given = [flag for flag in SINGLE_FILES if getattr(model, flag) is not None]
    if given:
        flags = ", ".join(f"--{flag}" for flag in given)
        raise ModelError(f"{flags}: single files are not supported yet; give a diffusers directory with --rushes_model")


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


@contextlib.contextmanager
def loading(path: Path) -> Iterator[None]:
    """Turn what the loaders of diffusers and transformers raise over bad files into `ModelError`."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be loaded: {first_line(error)}") from error
    except RuntimeError as error:
        if "size mismatch" not in str(error) and "state_dict" not in str(error):
            raise
        raise ModelError(f"{path} does not fit its own config.json: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def quiet_loading_bars() -> None:
    """Keep the loaders' progress bars out of a worker's log."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
