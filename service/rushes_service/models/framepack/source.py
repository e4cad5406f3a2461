"""Where FramePack's files are.

Its authors published the transformer alone; the rest is HunyuanVideo's and FLUX Redux's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushes._paths import absolute
from rushes.errors import ModelError, first_line
from rushes.families.spec import ArchitectureSpec, ModelFile
from rushes.wire.models import ModelSpec
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.from_files import FileSource, given_files
from rushes_service.models.loading.from_repo import (
    INDEX,
    WEIGHTS,
    Directories,
    ModelSource,
    Source,
    check_index,
    check_variant,
)
from rushes_service.models.loading.hub import HUB_ID, download

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


@dataclass(frozen=True)
class BareTransformer(Directories):
    """A directory that is a transformer and nothing else; without one, only what FramePack has of other models."""

    directory: Path | None
    variant: str | None = None

    def component(self, name: str) -> Path:
        """The transformer's directory, or another component out of the hub.

        Raises:
            ModelError: the hub cannot be reached and the component is not cached.
        """
        if name == "transformer" and self.directory is not None:
            return self.directory
        return self._elsewhere(name).component(name)

    def index(self) -> Mapping[str, Any]:
        """Nothing is said of the whole."""
        return {}

    def fingerprint(self, names: Sequence[str]) -> str:
        """Of components that come from the hub: their repositories' commits."""
        return "+".join(dict.fromkeys(self._elsewhere(name).fingerprint((name,)) for name in names))

    def _elsewhere(self, name: str) -> ModelSource:
        return ModelSource(download(REPOS[name], [name], self.variant), REPOS[name], variant=self.variant)


def find_framepack(model: ModelSpec, spec: ArchitectureSpec, file_hashes: FileHashCache) -> Source:
    """The parts of `model`: its files; a whole pipeline, or a transformer alone; by default what is published.

    Raises:
        ModelError: not there, or of another family.
    """
    given = given_files(model, spec)
    if given and model.model is None:
        return FileSource(
            spec.files, given, lambda: published(model, spec, given, file_hashes), file_hashes, model.variant
        )
    whole = find_whole(model.model or published_id(spec, model.f1), file_hashes, model.variant, given.values())
    return FileSource(spec.files, given, lambda: whole, file_hashes, model.variant) if given else whole


def published_id(spec: ArchitectureSpec, f1: bool) -> str:
    """Where the authors published the transformer."""
    return F1_HUB_ID if f1 else spec.hub_id


def published(
    model: ModelSpec, spec: ArchitectureSpec, given: Mapping[ModelFile, Path], file_hashes: FileHashCache
) -> Source:
    """What files leave to be found in the hub."""
    if "dit" in {file.flag for file in given}:
        return BareTransformer(None, model.variant)
    return find_whole(published_id(spec, model.f1), file_hashes, model.variant, given.values())


def find_whole(name: str, file_hashes: FileHashCache, variant: str | None = None, given: Iterable[Path] = ()) -> Source:
    """A whole pipeline or a transformer alone, by its directory or hub id.

    Args:
        variant: the one that is asked for.
        given: what other flags name.

    Raises:
        ModelError: not there, or of another family.
    """
    path = absolute(name)
    repo = None if path.is_dir() else name
    if repo is not None and not HUB_ID.fullmatch(repo):
        raise ModelError(f"{name}: there is no such directory, and it is no hub id either (owner/name)")
    directory = path if repo is None else download(repo, [INDEX, "config.json"])
    if (directory / INDEX).is_file() or not (directory / "config.json").is_file():
        check_index(directory / INDEX, (PIPELINE,))
        whole = ModelSource(
            directory if repo is None else download(repo, ["transformer", "vae"], variant), repo, file_hashes, variant
        )
        check_variant(whole, given)
        return whole
    check_transformer(directory / "config.json")
    directory = directory if repo is None else download(repo, WEIGHTS, variant)
    check_variant(ModelSource(directory, repo, variant=variant), (directory, *given))
    return BareTransformer(directory, variant)


def check_transformer(config: Path) -> None:
    """Raise `ModelError` unless `config` is that of FramePack's transformer."""
    try:
        found = json.loads(config.read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{config} cannot be read: {first_line(error)}") from error
    if found not in (TRANSFORMER, "HunyuanVideoTransformer3DModelPacked"):
        raise ModelError(f"{config.parent} holds a {found}, but FramePack needs a {TRANSFORMER}")
