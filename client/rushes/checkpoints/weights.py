"""What a trainer hands over as "the weights of this step", made into a file that stays."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Union, cast

from rushes.checkpoints.adapters import WEIGHTS_NAME, adapter_config, pack_into
from rushes.checkpoints.safetensors import fingerprint, unreadable
from rushes.checkpoints.snapshots import adopt, pending_name, snapshot
from rushes.errors import CheckpointError, CheckpointFormat, CheckpointMissing, ConfigError
from rushes.wire.jobs import Checkpoint, readable

Weights = Union[str, "os.PathLike[str]", Callable[[str], object], Mapping[str, Any]]
"""A path (of a file, or of a PEFT adapter's directory), a callable that writes a `.safetensors` file or such a
directory to the path it is given, or a state dict of tensors."""

OPENING = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""Not blocking: a pipe in the place of a checkpoint must not stop the training loop."""


SecuredCallback = Callable[[Path, "str | None"], None]
"""Is told the file that has the content now, and the trainer's own."""


class OpenWeights(NamedTuple):
    """Weights that can no longer get lost, though next to nothing of them has been read yet.

    Either `descriptor` is open on the trainer's file `path`, so the content outlives a rotation, or
    `path` is a file in the snapshot directory that was written for us. For a PEFT adapter `path` is its directory,
    `descriptor` is open on its tensors, and `config` is its configuration.
    """

    path: str
    descriptor: int | None = None
    config: str | None = None
    source: str | None = None
    """What the trainer wrote, where `path` is our file already."""

    def keep(self, directory: Path, secured: SecuredCallback | None = None) -> Checkpoint:
        """Make a snapshot in `directory`, named by content. Reads the whole file once, to hash it.

        Args:
            secured: told, before that takes its time, the file that has the content now, and the trainer's.

        Raises:
            CheckpointMissing: the file is gone.
            CheckpointFormat: the path is a directory or another thing that is no file.
            OSError: the directory cannot be written.
        """
        if self.descriptor is None:
            pending, source = Path(self.path), self.source
        else:
            if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
                raise CheckpointFormat(f"{self.path}: is not a file; give the .safetensors file itself")
            source = os.path.normpath(self.path)
            pending = self._secured(source, self.descriptor, directory)
        if secured is not None:
            secured(pending, source)
        digest = fingerprint(pending)
        if source is not None and readable(source) != source:
            source = None  # not a name that can be told to a worker; the snapshot has the content
        return Checkpoint(path=str(adopt(pending, digest)), fingerprint=digest, source=source, snapshot=True)

    def _secured(self, source: str, descriptor: int, directory: Path) -> Path:
        """A file in `directory` with the content of what is held."""
        if self.config is None:
            return snapshot(source, descriptor, directory)
        directory.mkdir(parents=True, exist_ok=True)
        pending = pending_name(directory)
        try:
            return pack_into(pending, source, descriptor, self.config)
        except BaseException:
            pending.unlink(missing_ok=True)
            raise


def secure(weights: Weights, directory: Path) -> OpenWeights:
    """Secure `weights` in the trainer's own thread: microseconds for a path, one save for anything else.

    An open descriptor keeps a file's content reachable even when its name is removed. Opening it is all that the
    training loop waits for; whether it is a checkpoint at all is looked at later.

    Raises:
        CheckpointMissing: the path names no file.
        CheckpointError: the callable wrote nothing, or a directory that is no complete adapter.
        ConfigError: `weights` is none of the kinds.
        Exception: whatever the callable raises.
    """
    if isinstance(weights, (str, os.PathLike)):
        path: str = os.fspath(weights)
        try:
            descriptor = os.open(path, OPENING)
        except FileNotFoundError:
            raise CheckpointMissing(f"{path}: there is no such checkpoint file") from None
        # What is called a file is one, or is found out later: asking would cost the training loop as much as opening.
        if not path.endswith(".safetensors") and stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return secure_adapter(path)
        # So would a Path, or abspath on every path.
        return OpenWeights(path if path.startswith("/") else os.path.abspath(path), descriptor)  # noqa: PTH100
    if not (callable(weights) or isinstance(weights, Mapping)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"weights must be a path, a callable or a state dict, not {type(weights).__name__}")
    directory.mkdir(parents=True, exist_ok=True)
    target = pending_name(directory)
    try:
        save(weights, target)
    except BaseException:
        remove(target)
        raise
    return OpenWeights(str(target))


def save(weights: Callable[[str], object] | Mapping[str, Any], target: Path) -> None:
    """Have weights written to `target`."""
    if not callable(weights):
        save_state_dict(weights, target)
        return
    weights(str(target))
    if target.is_dir():
        pack_directory(target)
    elif not target.is_file():
        raise CheckpointFormat(f"weights={weights!r} wrote no file to the path it was given ({target})")


def pack_directory(target: Path) -> None:
    """Put the one file that a PEFT adapter becomes in the place of its directory.

    Raises:
        CheckpointError: the directory holds no adapter, or one that is incomplete or pickled.
        OSError: the file cannot be written.
    """
    pending = pending_name(target.parent)
    held = secure_adapter(str(target))
    try:
        pack_into(pending, held.path, cast("int", held.descriptor), cast("str", held.config))
        remove(target)
        pending.replace(target)
    finally:
        os.close(cast("int", held.descriptor))
        pending.unlink(missing_ok=True)


def remove(written: Path) -> None:
    """Delete what a callable wrote, a file or a directory, if it is there."""
    if written.is_dir():
        shutil.rmtree(written)
    else:
        written.unlink(missing_ok=True)


def secure_adapter(directory: str) -> OpenWeights:
    """Secure a PEFT adapter's directory: its configuration is read, its tensors are held open.

    Raises:
        CheckpointError: the directory holds no adapter, or one that is incomplete or pickled.
    """
    config = adapter_config(directory)
    try:
        descriptor = os.open(Path(directory) / WEIGHTS_NAME, OPENING)
    except OSError as error:
        raise unreadable(Path(directory) / WEIGHTS_NAME, error) from None
    return OpenWeights(os.path.abspath(directory), descriptor, config)  # noqa: PTH100 - resolve() would follow links


def save_state_dict(weights: Mapping[str, Any], target: Path) -> None:
    """Write tensors to a safetensors file."""
    try:
        from safetensors.torch import save_file  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
    except ImportError:
        raise CheckpointError(
            "a state dict needs the safetensors package: pip install safetensors, or pass a path"
        ) from None
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    cast("Callable[[dict[str, Any], str], None]", save_file)(tensors, str(target))
