"""The configuration of a model that comes as one file: a published variant's, as the shapes of the file tell it.

What shapes do not tell (how many heads, how latents are scaled) is what the published model has. The JSON files in the
rooms' `published/` are those of the publishers' diffusers repositories. A file of another size needs a config.json
beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rushes.errors import ModelError
from rushes_service.models.loading.files.shapes import Config, Derive, Shapes, unpublished
from rushes_service.models.rooms import published


@cache
def variants(kind: str) -> Mapping[str, Config]:
    """Published configurations of a class, by the model's name."""
    return json.loads(published(f"{kind}.json").read_text())  # type: ignore[no-any-return]


def configuration(kind: str, shapes: Shapes, derive: Derive, anchors: tuple[str, ...]) -> tuple[Config, str]:
    """Arguments of the class called `kind` for a file of these shapes, and the name of the model that it is.

    Args:
        anchors: entries that must be a published model's, because others that shapes do not tell depend on them.

    Raises:
        ModelError: the file is of no published size, and no configuration lies beside it.
    """
    beside = config_beside(shapes.path, kind)
    if beside is not None:
        return fitted(beside, shapes, derive), "described by its config.json"
    derived = [(name, base, derive(shapes, base)) for name, base in variants(kind).items()]
    name, base, found = max(derived, key=lambda row: agreement(row[1], row[2]))
    for anchor in anchors:
        if all(other.get(anchor) != found[anchor] for other in variants(kind).values()):
            raise ModelError(unpublished(shapes.path, anchor, found[anchor]))
    exact = all(base.get(key) == value for key, value in found.items())
    return {**base, **found}, name if exact else f"like {name}"


def agreement(base: Mapping[str, Any], found: Mapping[str, Any]) -> int:
    """In how many entries a published model is what shapes tell."""
    return sum(base.get(key) == value for key, value in found.items())


def fitted(config: Config, shapes: Shapes, derive: Derive) -> Config:
    """A configuration from beside a file, once it is known to be of that file.

    Raises:
        ModelError: it describes another model.
    """
    try:
        found = derive(shapes, config)
    except KeyError as error:
        raise ModelError(f"the configuration beside {shapes.path} lacks {error}") from error
    for key, value in found.items():
        given = config.get(key, value)
        if value is not None and (list(given) if isinstance(given, tuple) else given) != value:
            raise ModelError(f"the configuration beside {shapes.path} says {key} {given}, the file has {value}")
    return {**found, **config}


def config_beside(path: Path, kind: str) -> Config | None:
    """What `NAME.config.json`, or else `config.json`, says in the directory of a file; None if it is of another class.

    Raises:
        ModelError: the file's own configuration is no JSON.
    """
    for candidate, own in ((path.with_suffix(".config.json"), True), (path.with_name("config.json"), False)):
        try:
            content = json.loads(candidate.read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            if own:
                raise ModelError(f"{candidate} cannot be read: {error}") from error
            continue
        if isinstance(content, dict) and kind in (content.get("_class_name"), *(content.get("architectures") or ())):
            return {key: value for key, value in content.items() if not key.startswith("_")}
    return None
