"""A module of diffusers or transformers, made from the directory that its `save_pretrained` wrote."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ModelMixin

from rushes.errors import ModelError
from rushes_service.models.loading.building import arranged, read
from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.files.headers import Header, read_safetensors
from rushes_service.models.loading.files.naming import Slot
from rushes_service.models.loading.files.quantisation import check_directory
from rushes_service.models.loading.files.variants import PLAIN, chosen_in
from rushes_service.models.loading.filling import ON_CPU, Destination
from rushes_service.runtime.compat_diffusers_models import renamed_on_load

logger = logging.getLogger("rushes.worker")

WEIGHTS = "diffusion_pytorch_model"

SHOWN = 3
"""Names that a message lists, of many."""


def config_in(directory: Path) -> Mapping[str, Any]:
    """What the `config.json` of a part says.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    with loading(directory):
        return dict(json.loads((directory / "config.json").read_text()))


def loaded(
    directory: Path,
    kind: Any,
    dtype: torch.dtype | None,
    destination: Destination = ON_CPU,
    asked: str | None = None,
) -> Any:
    """A part of a directory: read straight to where it is to lie, or by `kind.from_pretrained` where only that can.

    Args:
        asked: the variant of its weights, if it has that.

    Raises:
        ModelError: it cannot be read, or lacks weights, which the loaders would make up at random.
        ConfigError: its weights cannot be kept as `destination` says.
    """
    variant = chosen_in(directory, asked)
    if variant and asked is None:
        logger.info("%s has weights of the variant %s alone: those are read", directory, variant)
    check_directory(directory, asked)
    with loading(directory):
        if (header := directory_header(directory, kind, variant)) is not None:
            return build_directory(directory, header, kind, dtype, destination)
        given = {"variant": variant} if variant else {}
        model, found = kind.from_pretrained(directory, torch_dtype=dtype, output_loading_info=True, **given)
    if missing := sorted(found["missing_keys"]):
        raise incomplete(directory, kind, missing)
    return settled(model, destination)


def settled(model: Any, destination: Destination) -> Any:
    """A model with its weights, brought to where and how it is to be kept; raises `ConfigError` if it cannot be."""
    if destination.storage is not None:
        destination.storage.prepare(model)
        destination.storage.finish(model)
    return model.to(destination.device)


def directory_header(directory: Path, kind: Any, variant: str = PLAIN) -> Header | None:
    """What the weights of a variant in a directory are; None if they are none that `build_directory` reads.

    Those are pickles, and models that have another way than diffusers' own to be read.

    Raises:
        ModelError: a file is missing, cut short, or no file of weights.
    """
    if not isinstance(kind, type) or not issubclass(kind, ModelMixin):
        return None
    if kind.from_pretrained.__func__ is not ModelMixin.from_pretrained.__func__:  # type: ignore[attr-defined]
        return None
    infix = f".{variant}" if variant else ""
    single = directory / f"{WEIGHTS}{infix}.safetensors"
    indices = [directory / f"{WEIGHTS}.safetensors{end}" for end in (f".index{infix}.json", f"{infix}.index.json")]
    if index := next((file for file in indices if file.is_file()), None):
        named = json.loads(index.read_text())["weight_map"].values()
        files = tuple(directory / name for name in sorted(set(named)))
    elif single.is_file():
        files = (single,)
    else:
        return None
    entries = {}
    for file in files:
        entries.update(read_safetensors(file)[0])
    return Header(files[0], files, entries)


def build_directory(
    directory: Path, header: Header, kind: Any, dtype: torch.dtype | None, destination: Destination
) -> Any:
    """A module of class `kind` with the weights of a directory, as `kind.from_pretrained` would make it.

    Raises:
        ModelError: a weight is missing, has another shape than the configuration says, or cannot be read.
        ConfigError: its weights cannot be kept as `destination` says.
    """
    config = kind.load_config(directory)
    with made_in(dtype), init_empty_weights(include_buffers=False):
        model = kind.from_config(config)
    keys = renamed_on_load(model, header.entries)
    wanted = model.state_dict()
    if missing := sorted(wanted.keys() - keys.keys()):
        raise incomplete(directory, kind, missing)
    places = {name: (Slot(keys[name]), keys[name]) for name in wanted}
    read(model, arranged(model, places, dtype), header, "its config.json", destination)
    model.register_to_config(_name_or_path=str(directory))
    return model.eval()


@contextlib.contextmanager
def made_in(dtype: torch.dtype | None) -> Iterator[None]:
    """Inside, new tensors have the precision `dtype`, as while diffusers makes a model: some make tables of numbers."""
    before = torch.get_default_dtype()
    if dtype is not None:
        torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def incomplete(directory: Path, kind: Any, missing: Collection[str]) -> ModelError:
    """What to say of weights that are not there."""
    return ModelError(
        f"{directory} lacks {len(missing)} weights of a {kind.__name__} ({', '.join(sorted(missing)[:SHOWN])}, ...): "
        "it is incomplete, or of another model"
    )
