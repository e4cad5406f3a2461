"""Model directories, and directories that must be writable."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rushes._paths import absolute
from rushes.errors import ArchitectureError, ModelError
from rushes.families.table import architecture
from rushes_service.doctor.report import Finding, fail, gib, ok, warn
from rushes_service.models.loading.files.quantisation import check_directory as check_quantisation_of
from rushes_service.models.loading.files.variants import (
    check_asked,
    chosen_in,
    files_of_parts,
    unread_in,
    variant_of,
)

LITTLE_ROOM_BYTES = 5 * 2**30
"""An hour of samples and the cache of a few prompts; less is a warning."""

WEIGHTLESS = ("scheduler", "tokenizer", "feature_extractor", "image_processor")
"""Components without weights, by the beginning of their names."""

WEIGHT_SUFFIXES = (".safetensors", ".bin")


def check_directory(name: str, path: Path) -> Iterator[Finding]:
    """Can be made and written; has room."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        yield fail(name, f"{path}: {error.strerror}", "give a directory that this user may write")
        return
    free = shutil.disk_usage(path).free
    if free < LITTLE_ROOM_BYTES:
        yield warn(
            name, f"{path}: only {gib(free)} free", f"make room: {gib(LITTLE_ROOM_BYTES)} or more is comfortable"
        )
    else:
        yield ok(name, f"{path}, {gib(free)} free")


def check_architecture(name: str) -> Finding:
    """A family that this version samples."""
    try:
        spec = architecture(name)
    except ArchitectureError as error:
        return fail("architecture", str(error), "choose one of them")
    if not spec.sampled:
        return fail("architecture", f"{name} is known but not sampled yet", "see the README for those that are")
    return ok("architecture", f"{spec.name}: {spec.title}, by default {spec.hub_id}")


def check_model(model: str, variant: str | None = None) -> Iterator[Finding]:
    """A diffusers directory: its index and each component's files. A hub id can only be noted.

    Args:
        variant: the one of its weights that is asked for.
    """
    directory = absolute(model)
    if not directory.exists() and model.count("/") == 1 and not model.startswith((".", "/", "~")):
        advice = "the first sample downloads it; on a machine without network download it beforehand"
        yield warn("model", f"{model} is no directory here; taken for a hub id", advice)
        return
    if not directory.is_dir():
        advice = "give a diffusers directory (the one that holds model_index.json) or a hub id"
        yield fail("model", f"{model} is {'no directory' if directory.exists() else 'not there'}", advice)
        return
    index = directory / "model_index.json"
    try:
        described: dict[str, Any] = json.loads(index.read_text())
    except (OSError, ValueError) as error:
        yield fail("model", f"{index} cannot be read: {error}", "give the directory of a complete diffusers model")
        return
    yield ok("model", f"{described.get('_class_name', 'unknown pipeline')} in {directory}")
    for component, entry in described.items():
        if not component.startswith("_") and isinstance(entry, list) and entry[0] is not None:
            yield check_component(directory / component, variant)
    try:
        check_asked(directory, files_of_parts(directory), variant)
    except ModelError as error:
        yield fail("variant", str(error), "name one of those, or leave --variant out")


def check_component(directory: Path, asked: str | None = None) -> Finding:
    """One part of a model: the files that are read, weights and the shards that their index names among them."""
    name = f"model {directory.name}"
    if not directory.is_dir():
        return fail(name, f"{directory} is missing", "download the model again, whole")
    others = unread_in(directory, asked)
    files = [path for path in directory.rglob("*") if path.is_file() and path.name not in others]
    size = sum(path.stat().st_size for path in files)
    try:
        absent = missing_shards(files)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        return fail(name, f"an index of its weights cannot be read: {error}", "download the model again, whole")
    if absent:
        return fail(name, f"{len(absent)} missing: {', '.join(absent[:3])}", "download the model again, whole")
    try:
        variant = chosen_in(directory, asked)
    except ModelError as error:
        return fail(name, str(error), "name one of them")
    try:
        check_quantisation_of(directory, asked)
    except ModelError as error:
        return fail(name, str(error), "give a model in bf16, fp16 or fp32; docs/models.md says what is read")
    has_weights = any(path.suffix.lower() in WEIGHT_SUFFIXES for path in files)
    if not files or not (has_weights or directory.name.startswith(WEIGHTLESS)):
        return fail(name, f"{directory} holds no weights", "download the model again, whole")
    return ok(name, f"{gib(size)} in {len(files)} files" + (f", weights of the variant {variant}" if variant else ""))


def missing_shards(files: list[Path]) -> list[str]:
    """Weight files that an index beside them names and that are not there."""
    missing: set[str] = set()
    for index in files:
        if variant_of(index.name) is not None and index.suffix == ".json":
            shards = set(json.loads(index.read_text())["weight_map"].values())
            missing |= {shard for shard in shards if not (index.parent / shard).exists()}
    return sorted(missing)
