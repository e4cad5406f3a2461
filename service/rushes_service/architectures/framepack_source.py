"""Where FramePack's files are.

Its authors published the transformer alone; the rest is HunyuanVideo's and FLUX Redux's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rushes.errors import ModelError
from rushes.jobs import ModelSpec
from rushes_service.architectures.sources import (
    HUB_ID,
    INDEX,
    ModelSource,
    check_index,
    download,
    first_line,
    refuse_single_files,
)

PIPELINE = "HunyuanVideoFramepackPipeline"
TRANSFORMER = "HunyuanVideoFramepackTransformer3DModel"
F1_HUB_ID = "lllyasviel/FramePack_F1_I2V_HY_20250503"

HUNYUAN_VIDEO = "hunyuanvideo-community/HunyuanVideo"
FLUX_REDUX = "lllyasviel/flux_redux_bfl"
REPOS: Mapping[str, str] = {
    **dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"), HUNYUAN_VIDEO),
    **dict.fromkeys(("image_encoder", "feature_extractor"), FLUX_REDUX),
}
"""Where the components are that FramePack's own repositories lack."""

WEIGHTS = ("config.json", "*.safetensors", "*.index.json")


class Source(Protocol):
    """A model's components by name."""

    def component(self, name: str) -> Path:
        """The directory of a component; raises `ModelError`."""

    def fingerprint(self, names: tuple[str, ...]) -> str:
        """Hex digest of the files of some components."""


@dataclass(frozen=True)
class BareTransformer:
    """A directory that is a transformer and nothing else."""

    directory: Path

    def component(self, name: str) -> Path:
        """The transformer's directory, or another component out of the hub.

        Raises:
            ModelError: the hub cannot be reached and the component is not cached.
        """
        if name == "transformer":
            return self.directory
        return self._elsewhere(name).component(name)

    def fingerprint(self, names: tuple[str, ...]) -> str:
        """Of components that come from the hub: their repositories' commits."""
        return "+".join(dict.fromkeys(self._elsewhere(name).fingerprint((name,)) for name in names))

    def _elsewhere(self, name: str) -> ModelSource:
        return ModelSource(download(REPOS[name], [name]), REPOS[name])


def find_framepack(model: ModelSpec, hub_id: str) -> Source:
    """The files of `model`: a whole pipeline, or a transformer alone; by default what the authors published.

    Raises:
        ModelError: not there, of another family, or given by flags that are not supported.
    """
    refuse_single_files(model)
    name = model.model or (F1_HUB_ID if model.f1 else hub_id)
    path = Path(name).expanduser()
    repo = None if path.is_dir() else name
    if repo is not None and not HUB_ID.fullmatch(repo):
        raise ModelError(f"{name}: there is no such directory, and it is no hub id either (owner/name)")
    directory = path if repo is None else download(repo, [INDEX, "config.json"])
    if (directory / INDEX).is_file() or not (directory / "config.json").is_file():
        check_index(directory / INDEX, (PIPELINE,))
        return ModelSource(directory if repo is None else download(repo, ["transformer", "vae"]), repo)
    check_transformer(directory / "config.json")
    return BareTransformer(directory if repo is None else download(repo, WEIGHTS))


def check_transformer(config: Path) -> None:
    """Raise `ModelError` unless `config` is that of FramePack's transformer."""
    try:
        found = json.loads(config.read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{config} cannot be read: {first_line(error)}") from error
    if found not in (TRANSFORMER, "HunyuanVideoTransformer3DModelPacked"):
        raise ModelError(f"{config.parent} holds a {found}, but FramePack needs a {TRANSFORMER}")
