"""What a pipeline's `encode_prompt` returned, and what is in the place of encoders that are not loaded."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import diffusers
import torch

from rushes.errors import ModelError, PromptError, first_line
from rushes_service.lora.text_encoders import TextLoras
from rushes_service.models.conditioning import Conditioning
from rushes_service.models.generic import calls
from rushes_service.models.generic.source import PipelineFiles
from rushes_service.runtime.devices import name_of


class EncoderAbsent(ModelError):
    """An encoder is asked for a text while it is not loaded."""


class AbsentEncoder:
    """In the place of an encoder that is not loaded: pipelines ask for its precision and its configuration.

    No module, so that a pipeline does not take its device for its own.
    """

    def __init__(self, files: PipelineFiles, name: str, kind: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._files, self._name, self._kind = files, name, kind

    @cached_property
    def config(self) -> Any:
        """The encoder's configuration; raises `ModelError`."""
        return self._kind.config_class.from_dict(dict(self._files.source.config(self._name, self._kind)))

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        raise EncoderAbsent(f"the pipeline asks its {self._name} while it denoises: it cannot be sampled")


class AbsentEncoders:
    """What is in the places of a pipeline's text encoders until they are lent."""

    def __init__(self, pipe: Any, files: PipelineFiles, dtype: torch.dtype) -> None:
        self._pipe = pipe
        self._absent = {
            name: AbsentEncoder(files, name, kind, dtype) for name, kind in files.modules(encoders=True).items()
        }
        self.take_places()

    def take_places(self) -> None:
        """Let the encoders go."""
        for name, absent in self._absent.items():
            setattr(self._pipe, name, absent)

    @property
    def in_place(self) -> bool:
        """True unless the encoders are there."""
        return any(getattr(self._pipe, name) is absent for name, absent in self._absent.items())


def text_key(
    files: PipelineFiles, dtype: torch.dtype, loras: TextLoras, arguments: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Cache key of what `encode_prompt` makes of its arguments; None if some of them have no text form."""
    said = {name: value for name, value in arguments.items() if name not in ("self", "device")}
    try:
        text = json.dumps(said, sort_keys=True)
    except TypeError:
        return None
    about = {"kind": files.kind.__name__, "files": files.texts_fingerprint(), "diffusers": diffusers.__version__}
    trained = loras.key(tuple(files.modules(encoders=True)))
    return {**about, "dtype": name_of(dtype), "arguments": text, **({"loras": trained} if trained else {})}


def repeat_without_encoders(encode_prompt: Callable[[], Any]) -> None:
    """Do what `encode_prompt` does before it asks an encoder.

    What it returns may be known from before, but not what it changes: LTX-2 sets the side on which its tokenizer pads,
    and goes by that later.
    """
    with contextlib.suppress(EncoderAbsent, AttributeError):
        encode_prompt()


def texts_of(conditioning: Conditioning) -> Iterator[Any]:
    """What `encode_prompt` returned, call by call.

    Raises:
        ModelError: it is called more often than when texts were encoded.
    """
    found: dict[int, Conditioning] = {}
    for name, tensor in conditioning.items():
        number, dot, rest = name.partition(".")
        found.setdefault(int(number), {})[dot + rest] = tensor
    for number in sorted(found):
        yield calls.unpacked(found[number])
    raise ModelError("the pipeline encodes a text after it has drawn its noise: it cannot be sampled")


@contextlib.contextmanager
def named_errors(pipeline: str) -> Iterator[None]:
    """Turn what a pipeline says of its arguments into `PromptError`."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise PromptError(f"{pipeline}: {first_line(error)}") from error
