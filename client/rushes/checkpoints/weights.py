"""What a trainer hands over as "the weights of this step", made into a file that stays."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Union, cast

from rushes._platform import WINDOWS, open_shared
from rushes.checkpoints.adapters import ADAPTER_CONFIG, CONFIG_KEY, AdapterFiles, adapter_files, pack_into
from rushes.checkpoints.experts import packed_pair
from rushes.checkpoints.file_names import expert_in_name
from rushes.checkpoints.safetensors import fingerprint, unreadable
from rushes.checkpoints.snapshots import adopt, pending_name, snapshot
from rushes.errors import CheckpointError, CheckpointFormat, CheckpointMissing, ConfigError
from rushes.wire.base import unicode_text
from rushes.wire.jobs import Checkpoint
from rushes.wire.models import Expert


@dataclass(frozen=True)
class LoraState:
    """A LoRA's tensors in memory, with what they do not say themselves: how strongly they act.

    Args:
        tensors: by name, as PEFT's `get_peft_model_state_dict` returns them, for example.
        alpha: of all modules; the scale is `alpha / rank`, and 1 if neither `alpha` nor `config` is given.
        config: PEFT's configuration (a `LoraConfig`, or the dictionary of its `to_dict`), instead of `alpha`.

    Raises:
        ConfigError: both are given, or alpha is not above 0.
    """

    tensors: Mapping[str, Any]
    alpha: float | None = None
    config: Any = None

    def __post_init__(self) -> None:
        if self.alpha is not None and (self.config is not None or not 0 < self.alpha < float("inf")):
            raise ConfigError(f"LoraState: alpha {self.alpha} must be above 0, and stands instead of a config")

    def metadata(self) -> dict[str, str]:
        """What the file's header says of the strength."""
        if self.config is None:
            return {} if self.alpha is None else {"lora_alpha": repr(float(self.alpha))}
        config = cast("Mapping[str, Any]", self.config.to_dict() if hasattr(self.config, "to_dict") else self.config)
        return {CONFIG_KEY: json.dumps(config, default=plain)}


def plain(value: object) -> object:
    """A value of PEFT's configuration as JSON has it: sets are lists, enumerations their text."""
    return sorted(map(str, cast("set[object]", value))) if isinstance(value, (set, frozenset)) else str(value)


@dataclass(frozen=True)
class ExpertPair:
    """The files of both transformers of Wan2.2 at one step; each goes into its own, in one sample.

    Args:
        high: for much noise: a path of a file or an adapter's directory.
        low: for little noise.
    """

    high: str | os.PathLike[str]
    low: str | os.PathLike[str]


Weights = Union[str, "os.PathLike[str]", Callable[[str], object], Mapping[str, Any], LoraState, ExpertPair]
"""A path (of a file, or of an adapter's directory), a callable that writes a `.safetensors` file or such a directory to
the path it is given, a state dict of tensors, one with its alpha, or the files of both of Wan2.2's transformers."""


SecuredCallback = Callable[[Path, "str | None"], None]
"""Is told the file that has the content now, and the trainer's own."""


class OpenWeights(NamedTuple):
    """Weights that can no longer get lost, though next to nothing of them has been read yet.

    Either `descriptor` is open on the trainer's file `path`, so the content outlives a rotation, or `path` is a file in
    the snapshot directory that was written for us. For an adapter's directory `path` is the directory and `descriptor`
    is open on its tensors; `config` is the configuration beside those. `pair` are both files of an `ExpertPair`.
    """

    path: str
    descriptor: int | None = None
    config: str | None = None
    source: str | None = None
    """What the trainer wrote, where `path` is our file already."""

    pair: tuple[OpenWeights, ...] = ()

    def keep(self, directory: Path, secured: SecuredCallback | None = None) -> Checkpoint:
        """Make a snapshot in `directory`, named by content. Reads the whole file once, to hash it.

        Args:
            secured: told, before that takes its time, the file that has the content now, and the trainer's.

        Raises:
            CheckpointMissing: the file is gone.
            CheckpointFormat: the path is a directory or another thing that is no file.
            OSError: the directory cannot be written.
        """
        pending, source = self._pending(directory)
        if secured is not None:
            secured(pending, source)
        digest = fingerprint(pending)
        if source is not None and unicode_text(source) != source:
            source = None  # not a name that can be told to a worker; the snapshot has the content
        return Checkpoint(path=str(adopt(pending, digest)), fingerprint=digest, source=source, snapshot=True)

    def in_snapshots(self, directory: Path) -> OpenWeights:
        """The same weights as a file in `directory`; the trainer's own are closed.

        Raises:
            CheckpointError, OSError: as `keep`.
        """
        try:
            pending, source = self._pending(directory)
        finally:
            self.close()
        return OpenWeights(str(pending), source=source)

    def _pending(self, directory: Path) -> tuple[Path, str | None]:
        """A file in `directory` that has the content now, and the trainer's own."""
        for opened in (self, *self.pair):
            if opened.descriptor is not None and not stat.S_ISREG(os.fstat(opened.descriptor).st_mode):
                raise CheckpointFormat(f"{opened.path}: is not a file; give the .safetensors file itself")
        if self.descriptor is None and not self.pair:
            return Path(self.path), self.source
        return self._secured(directory), None if self.pair else os.path.normpath(self.path)

    def close(self) -> None:
        """Let go of the trainer's files."""
        for opened in (self, *self.pair):
            if opened.descriptor is not None:
                os.close(opened.descriptor)

    def _secured(self, directory: Path) -> Path:
        """A file in `directory` with the content of what is held."""
        if self.config is None and not self.pair:
            return snapshot(self.path, cast("int", self.descriptor), directory)
        directory.mkdir(parents=True, exist_ok=True)
        pending = pending_name(directory)
        try:
            if self.pair:
                return pack_pair(pending, *self.pair)
            return pack_into(pending, self.path, cast("int", self.descriptor), cast("str", self.config))
        except BaseException:
            pending.unlink(missing_ok=True)
            raise


def pack_pair(target: Path, high: OpenWeights, low: OpenWeights) -> Path:
    """Write the one file that those of both experts become.

    Raises:
        CheckpointError: one is no complete safetensors file.
        OSError: the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        files: dict[Expert, tuple[Path, Any, str | None]] = {}
        named: tuple[tuple[Expert, OpenWeights], ...] = (("high", high), ("low", low))
        for expert, weights in named:
            file = stack.enter_context(os.fdopen(os.dup(cast("int", weights.descriptor)), "rb"))
            files[expert] = (Path(weights.path), file, weights.config)
        out = stack.enter_context(target.open("xb"))
        out.writelines(packed_pair(files))
    return target


def secure(weights: Weights, directory: Path) -> OpenWeights:
    """Secure `weights` in the trainer's own thread: microseconds for a path, one save for anything else.

    An open descriptor keeps a file's content reachable even when its name is removed. Opening it, and reading the
    configuration beside it, is all that the training loop waits for; whether it is a checkpoint at all is looked at
    later. On Windows open files are in the way of programs that delete or rename them, so the file is linked at once
    (copied, on file systems without hard links), and closed.

    Raises:
        CheckpointMissing: the path names no file.
        CheckpointError: the callable wrote nothing, or a directory that is no complete adapter.
        ConfigError: `weights` is none of the kinds.
        Exception: whatever the callable raises.
    """
    if isinstance(weights, (str, os.PathLike)):
        opened = secure_path(os.fspath(weights))
        return opened.in_snapshots(directory) if WINDOWS else opened
    if isinstance(weights, ExpertPair):
        opened = secure_pair(weights)
        return opened.in_snapshots(directory) if WINDOWS else opened
    if not (callable(weights) or isinstance(weights, (Mapping, LoraState))):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"weights must be a path, a callable or a state dict, not {type(weights).__name__}")
    directory.mkdir(parents=True, exist_ok=True)
    target = pending_name(directory)
    try:
        save(weights, target)
    except BaseException:
        remove(target)
        raise
    return OpenWeights(str(target))


def secure_path(path: str) -> OpenWeights:
    """Open a file or an adapter's directory.

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointError: the directory holds no adapter, or one that is incomplete or pickled.
    """
    absolute = path.startswith("/") and not WINDOWS
    full = path if absolute else os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links
    try:
        descriptor = open_shared(path)
    except FileNotFoundError:
        raise CheckpointMissing(f"{path}: there is no such checkpoint file") from None
    except PermissionError:
        if not os.path.isdir(path):  # noqa: PTH112
            raise
        return open_adapter(full)  # Windows opens no directories
    # Don't stat .safetensors paths; a directory with that name fails later.
    if not path.endswith(".safetensors") and stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return open_adapter(full)
    # Avoid Path here: it is slow, and most files have no configuration beside them.
    config = None
    if os.path.exists(f"{os.path.dirname(full)}/{ADAPTER_CONFIG}"):  # noqa: PTH110, PTH120
        try:
            config = adapter_files(full).config
        except BaseException:
            os.close(descriptor)
            raise
    return OpenWeights(full, descriptor, config)


def secure_pair(pair: ExpertPair) -> OpenWeights:
    """Open the files of both experts.

    Raises:
        CheckpointError: as `secure_path`.
        ConfigError: a file's name says that it is for the other expert.
    """
    for expert, path in (("high", pair.high), ("low", pair.low)):
        named = expert_in_name(os.fspath(path))
        if named not in (None, expert):
            raise ConfigError(f"ExpertPair: {os.fspath(path)} is given as {expert}, but its name says {named}")
    high = secure_path(os.fspath(pair.high))
    try:
        low = secure_path(os.fspath(pair.low))
    except BaseException:
        high.close()
        raise
    return OpenWeights(high.path, pair=(high, low))


def save(weights: Callable[[str], object] | Mapping[str, Any] | LoraState, target: Path) -> None:
    """Have weights written to `target`."""
    if isinstance(weights, LoraState):
        save_state_dict(weights.tensors, target, weights.metadata())
        return
    if not callable(weights):
        save_state_dict(weights, target)
        return
    weights(str(target))
    if not target.exists():
        raise CheckpointFormat(f"weights={weights!r} wrote no file to the path it was given")
    try:
        if target.is_dir():
            pack_directory(target)
    except CheckpointError as error:
        # The path is a temporary one of ours: it says nothing to anybody, and is gone when this is read.
        what = str(error).replace(f"{target}{os.sep}", "").replace(f"{target}: ", "").replace(str(target), "it")
        raise type(error)(f"weights={weights!r} wrote no checkpoint: {what}") from None


def pack_directory(target: Path) -> None:
    """Put the one file that an adapter becomes in the place of its directory.

    Raises:
        CheckpointError: the directory holds no adapter, or one that is incomplete or pickled.
        OSError: the file cannot be written.
    """
    pending = pending_name(target.parent)
    files = adapter_files(target)
    opened = open_files(str(target), files)
    try:
        try:
            if files.config is None:
                files.weights.replace(pending)
            else:
                pack_into(pending, files.weights, cast("int", opened.descriptor), files.config)
        finally:
            opened.close()  # before it is removed, for Windows
        remove(target)
        pending.replace(target)
    finally:
        pending.unlink(missing_ok=True)


def remove(written: Path) -> None:
    """Delete what a callable wrote, a file or a directory, if it is there."""
    if written.is_dir():
        shutil.rmtree(written)
    else:
        written.unlink(missing_ok=True)


def open_adapter(directory: str) -> OpenWeights:
    """Secure an adapter's directory: its configuration is read, its tensors are held open.

    Raises:
        CheckpointError: the directory holds no adapter, or one that is incomplete or pickled.
    """
    files = adapter_files(directory)
    # A file that needs no configuration is a snapshot by itself, without a copy.
    return open_files(str(files.weights) if files.config is None else directory, files)


def open_files(path: str, files: AdapterFiles) -> OpenWeights:
    """An adapter's files, known as `path`.

    Raises:
        CheckpointError: the tensors cannot be opened.
    """
    try:
        descriptor = open_shared(files.weights)
    except OSError as error:
        raise unreadable(files.weights, error) from None
    return OpenWeights(path, descriptor, files.config)


def save_state_dict(weights: Mapping[str, Any], target: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a safetensors file; a number among them (an alpha) becomes one, too."""
    try:
        from safetensors.torch import save_file  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
    except ImportError:
        raise CheckpointError(
            "a state dict needs the safetensors package: pip install safetensors, or pass a path"
        ) from None
    tensors = {name: as_tensor(value, weights) for name, value in weights.items()}
    cast("Callable[[dict[str, Any], str, dict[str, str] | None], None]", save_file)(
        tensors, str(target), dict(metadata) if metadata else None
    )


def as_tensor(value: Any, beside: Mapping[str, Any]) -> Any:
    """A tensor as safetensors takes it; a number becomes one, of the kind of the tensors `beside` it."""
    if isinstance(value, (int, float)):
        some = next((other for other in beside.values() if not isinstance(other, (int, float))), None)
        if some is None:
            raise CheckpointError("the weights could not be saved: a state dict without a tensor is no checkpoint")
        value = some.new_tensor(float(value))
    return value.detach().contiguous()
