"""What encoders of text and pictures share: nothing is loaded before the first input, and everything is given back.

Families lend themselves an encoder for a while (`with SomeText(...) as encoder`). Whether its weights are kept in host
memory afterwards, and whether the next one needs them on the device still, is for the store to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from rushes_service.models.encoder_store import EncoderStore, Key
from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.from_repo import Source, quiet_loading_bars
from rushes_service.runtime.float8 import encoder_in_float8

Same = TypeVar("Same", bound="LazyEncoder")


def headless(model: Any) -> nn.Module:
    """A language model without its head, which would predict a word after every one that is read."""
    return model.model  # type: ignore[no-any-return]


class LazyEncoder:
    """One or more encoders with their tokenizers, loaded at their first use.

    Args:
        store: where the encoders are lent from; without one they are loaded for this object alone.
        float8: store the encoder of text in float8.
    """

    parts: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")
    """Components that an embedding depends on."""

    def __init__(
        self,
        source: Source,
        device: torch.device,
        dtype: torch.dtype,
        store: EncoderStore | None = None,
        *,
        float8: bool = False,
    ) -> None:
        self.source = source
        self.device = device
        self.dtype = dtype
        self.float8 = float8
        self._store = store or EncoderStore()
        self._loaded: Any = None

    @property
    def key(self) -> Key:
        """What distinguishes these encoders, as they are loaded, from others: class, files and precision."""
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        return kind, self.source.fingerprint(self.parts), str(self.dtype), self.float8

    @property
    def loaded(self) -> Any:
        """What `load` makes, with its weights on the device."""
        if self._loaded is None:
            quiet_loading_bars()
            self._loaded = self._store.acquire(self.key, self.device, self.load)
        return self._loaded

    def load(self) -> Any:
        """Whatever encodes; its modules are those of `encoder`.

        Raises:
            ModelError: a part is not there, or cannot be loaded.
        """
        raise NotImplementedError

    def part(self, name: str, kind: Any) -> Any:
        """A tokenizer or processor of class `kind`; raises `ModelError`."""
        directory = self.source.component(name)
        with loading(directory):
            return kind.from_pretrained(directory)

    def encoder(
        self,
        name: str,
        kind: Any,
        *,
        dtype: torch.dtype | None = None,
        needed: Callable[[Any], nn.Module] = lambda model: model,
        rounded: Callable[[Any], nn.Module] | None = lambda model: model,
        keep: bool = True,
    ) -> Any:
        """A model of class `kind`, on the device; raises `ModelError`.

        Args:
            dtype: its precision, if not that of the others.
            needed: the part of it that encodes; the rest is let go before anything is brought to the device.
            rounded: the part of that which `float8` is for; None if it is for none.
            keep: it may be kept for later. What is changed once it is loaded may not.
        """
        model = needed(self.source.load(name, kind, dtype or self.dtype).eval())
        if self.float8 and rounded is not None:
            encoder_in_float8(rounded(model))
        return self._store.placed(model, self.device, keep=keep)

    def free(self) -> None:
        """Give the encoders back."""
        if self._loaded is not None:
            self._loaded = None
            self._store.release()

    def __enter__(self: Same) -> Same:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()
