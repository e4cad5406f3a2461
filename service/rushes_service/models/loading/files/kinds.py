"""Which kind of weights file a file is, told from the names and shapes in it. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable

from rushes.errors import ModelError
from rushes_service.models.loading.files.headers import Header
from rushes_service.models.rooms import FileKind, file_kinds

LORA_SIGNS = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".hada_w1_", ".lokr_w")


def file_kinds_of(header: Header) -> list[FileKind]:
    """What a file may be, the likeliest first; a file that holds several models is all of them."""
    found: dict[str, FileKind] = {}
    for kind in file_kinds():
        if kind.flag not in found and any(at_a_dot(name, kind.signs) for name in header.entries):
            found[kind.flag] = kind
    return list(found.values())


def at_a_dot(name: str, signs: Iterable[str]) -> bool:
    """True if one of `signs` is the whole of `name` or all that follows a dot."""
    return any(name == sign or name.endswith("." + sign) for sign in signs)


def described(header: Header) -> str:
    """What a file is, for people."""
    if is_lora(header):
        return "a LoRA, and no base model"
    found = file_kinds_of(header)
    if not found:
        return (
            f"no model that Rushes knows ({len(header.entries)} tensors: {', '.join(sorted(header.entries)[:3])}, ...)"
        )
    variant = found[0].variants.get(input_channels(header, found[0].first_layer))
    return f"{found[0].title} ({variant})" if variant else found[0].title


def is_lora(header: Header) -> bool:
    """True for an adapter."""
    return any(sign in name for name in header.entries for sign in LORA_SIGNS)


def input_channels(header: Header, layer: str) -> int:
    """Channels that the first layer of a model takes, by the name of its weight; 0 if it is not there."""
    if layer:
        for name, entry in header.entries.items():
            if at_a_dot(name, (layer,)) and len(entry.shape) > 1:
                return entry.shape[1]
    return 0


def check_file_kind(header: Header, wanted: Iterable[str], flag: str) -> None:
    """Raise `ModelError` unless a file is one of the kinds called `wanted`.

    Args:
        flag: the one that the file was given by.
    """
    names = list(wanted)
    found = file_kinds_of(header)
    if any(kind.name in names for kind in found):
        return
    needed = " or ".join(kind.title for name in names for kind in file_kinds() if kind.name == name)
    message = f"{flag} {header.path}: this is {described(header)}; {flag} needs {needed}"
    if found and found[0].flag != flag:
        message += f". Give this file with {found[0].flag}, if the family takes it"
    raise ModelError(message)
