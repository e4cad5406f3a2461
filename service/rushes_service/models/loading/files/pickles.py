"""What is in a `.pt` or `.pth` file, without running what is pickled in it and without torch.

PyTorch's files are zip archives with one pickle of names and shapes beside the numbers. It is read here with every
class and function replaced by one that does nothing, so a malicious file can do nothing either. The weights themselves
are read by `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rushes.errors import ModelError

DTYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
"""Precisions by the names that pickles have for them."""

Tensor = tuple[str, tuple[int, ...]]
"""Precision and shape."""

NESTINGS = ("module", "state_dict", "model", "model_state_dict", "ema")
"""Names under which programs put a state dict beside other things."""


class Inert:
    """Stands for any class or function of a pickle; being called or filled changes nothing."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        """The tensor that a pickled call would make, if it makes one; else something inert."""
        if self.name == "_rebuild_tensor_v2":
            (_, storage, *_), _, shape = arguments[:3]
            return (DTYPES.get(storage.name, "unknown"), tuple(shape))
        if self.name in ("_rebuild_parameter", "_rebuild_from_type_v2") and arguments:
            return arguments[1](*arguments[2]) if self.name == "_rebuild_from_type_v2" else arguments[0]
        if self.name == "_rebuild_tensor_v3":
            return (DTYPES.get(arguments[6].name, "unknown"), tuple(arguments[2]))
        return Inert()

    def __setstate__(self, state: Any) -> None:
        """Nothing is kept."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Nothing is kept."""

    def append(self, item: Any) -> None:
        """Nothing is kept."""


class HeaderUnpickler(pickle.Unpickler):
    """Reads shapes; imports nothing and calls nothing of what the file names."""

    def find_class(self, module: str, name: str) -> Any:
        """A real dictionary for dictionaries, something inert for everything else."""
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else Inert(name)

    def persistent_load(self, pid: Any) -> Any:
        """A storage as the tuple that describes it."""
        return pid


def read_pickle(path: Path) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The tensors of a file, and the keys of the dictionaries around them.

    Raises:
        ModelError: it is cut short, no file of PyTorch's, or one older than PyTorch 1.6.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as stream:
                content = HeaderUnpickler(stream).load()
    except (OSError, ValueError, TypeError, LookupError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ModelError(unreadable(path, error)) from error
    except pickle.UnpicklingError as error:
        raise ModelError(unreadable(path, error)) from error
    nested, found = tensors_of(content)
    if not found:
        raise ModelError(f"{path} holds no weights; give the file with the model's state dict")
    return nested, found


def unreadable(path: Path, error: Exception) -> str:
    """Says that a file is not what its name says."""
    return f"{path} is no file of PyTorch's ({error}): copy or download it again, or convert it to safetensors"


def tensors_of(content: Any) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The tensors in what was pickled, and the keys of the dictionaries around them."""
    nested: tuple[str, ...] = ()
    while isinstance(content, Mapping):
        found = {str(name): value for name, value in content.items() if is_tensor(value)}
        inner = next((name for name in NESTINGS if isinstance(content.get(name), Mapping)), None)
        if found or inner is None:
            return nested, found
        nested, content = (*nested, inner), content[inner]
    return nested, {}


def is_tensor(value: Any) -> bool:
    """True for what `HeaderUnpickler` makes of a tensor."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], tuple) and isinstance(value[0], str)
