"""The LoRA of a model that PEFT or diffusers has put one on, as one file. Runs in the trainer's environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from rushes.errors import CheckpointError

PREFIXES = {"UNet": "unet."}
"""What stands before the names in diffusers' LoRA files, by how the class of the model that denoises begins."""

TRANSFORMER = "transformer."
"""The same for all others."""

METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers keeps the adapter's configuration in a file's header; without it `lora_alpha` is unknown."""

PEFT_PREFIX = "base_model.model."


def save_adapter(model: Any, path: str, adapter: str | None = None) -> None:
    """Write a model's LoRA as diffusers writes it, with its configuration.

    Args:
        model: a PEFT model, a diffusers model with `add_adapter`, or a module that holds one of these.
        path: a file ending in `.safetensors`.
        adapter: the adapter's name; needed where there are several.

    Raises:
        CheckpointError: there is no adapter, or more than one and none is named.
    """
    from peft import get_peft_model_state_dict  # pyright: ignore
    from safetensors.torch import save_file  # pyright: ignore

    holder = adapted(model)
    name, prefix = adapter_name(holder, adapter), prefix_of(holder)
    tensors_of = cast("Callable[..., Mapping[str, Any]]", get_peft_model_state_dict)
    tensors = {
        prefix + key.removeprefix(PEFT_PREFIX): tensor.detach().cpu().contiguous()
        for key, tensor in tensors_of(holder, adapter_name=name).items()
    }
    config = {prefix + key: value for key, value in holder.peft_config[name].to_dict().items()}
    metadata = {"format": "pt", METADATA_KEY: json.dumps(config, default=plain, sort_keys=True)}
    cast("Callable[..., None]", save_file)(tensors, path, metadata=metadata)


def prefix_of(holder: Any) -> str:
    """What diffusers' LoRA files have before the names of a model's modules.

    Args:
        holder: the model, or PEFT's wrapper around it.
    """
    model: Any = holder.get_base_model() if hasattr(holder, "get_base_model") else holder
    names = [kind.__name__ for kind in type(model).__mro__]
    found = (prefix for start, prefix in PREFIXES.items() if any(name.startswith(start) for name in names))
    return next(found, TRANSFORMER)


def carries_adapter(model: Any) -> bool:
    """True if a module of `model` has a LoRA of PEFT or diffusers on it."""
    return first_adapted(model) is not None


def first_adapted(model: Any) -> Any:
    """The first module, from the outside in, that carries an adapter; None if none does."""
    return next((module for module in model.modules() if isinstance(getattr(module, "peft_config", None), dict)), None)


def adapted(model: Any) -> Any:
    """See `first_adapted`.

    Raises:
        CheckpointError: none does.
    """
    if (found := first_adapted(model)) is not None:
        return found
    raise CheckpointError(
        f"{type(model).__name__} has no LoRA of PEFT or diffusers on it; give `weights`, a function that writes your "
        "LoRA to the path it is given"
    )


def adapter_name(model: Any, asked: str | None) -> str:
    """The name of the adapter to write.

    Raises:
        CheckpointError: there is none of that name, or several and none was asked for.
    """
    names = list(cast("dict[str, Any]", model.peft_config))
    if asked is None and len(names) == 1:
        return names[0]
    if asked is not None and asked in names:
        return asked
    raise CheckpointError(f"which adapter? there are {', '.join(names)}, and {asked!r} was asked for")


def plain(value: Any) -> Any:
    """A set as a list, anything else that JSON does not know as text."""
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)  # pyright: ignore
