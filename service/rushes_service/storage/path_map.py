"""Path mapping between machines: a trainer's `/train/out` or `C:\\train\\out` is `/mnt/train/out` on the worker's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from rushes.errors import ConfigError, InputError
from rushes.wire.job_files import prompt_with
from rushes.wire.jobs import SampleJob
from rushes.wire.models import ModelSpec

MODEL_FIELDS = tuple(name for name, field in ModelSpec.model_fields.items() if field.annotation == (str | None))
"""Fields of a base model that hold a file or directory: every optional text field."""

Translate = Callable[[str], str]


@dataclass(frozen=True)
class PathMap:
    """Pairs (remote, local) of one directory: the submitter's path and this machine's. The longest match wins."""

    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> PathMap:
        r"""A map from texts like `/train=/mnt/train`, `C:\train=/mnt/train` or `\\\\nas\share=/mnt/share`.

        Raises:
            ConfigError: one of them is not two absolute paths.
        """
        return cls(tuple(parse_pair(text) for text in texts))

    def to_local(self, path: str) -> str:
        """This machine's path for one of the submitter's; text that matches no pair (a hub id, say) stays as it is."""
        return translated(path, self.pairs)

    def to_remote(self, path: str) -> str:
        """The submitter's path for one of this machine's."""
        return translated(path, [(local, remote) for remote, local in self.pairs])

    def job_to_local(self, job: SampleJob) -> SampleJob:
        """The job with all its files under this machine's paths."""
        return job_with(job, self.to_local) if self.pairs else job

    def facts_to_remote(self, facts: Any) -> Any:
        """JSON-able facts with every path of this machine replaced by the submitter's."""
        if not self.pairs:
            return facts
        if isinstance(facts, str):
            return self.to_remote(facts)
        if isinstance(facts, dict):
            return {key: self.facts_to_remote(value) for key, value in facts.items()}
        if isinstance(facts, (list, tuple)):
            return [self.facts_to_remote(value) for value in facts]
        return facts


def parse_pair(text: str) -> tuple[str, str]:
    """The submitter's directory and this machine's."""
    remote, equals, local = text.partition("=")
    if not equals or not (remote.startswith("/") or of_windows(remote)) or not local.startswith("/"):
        raise ConfigError(
            f"--map {text!r}: write THERE=HERE, two absolute directories, such as /train=/mnt/train or "
            "'C:\\train=/mnt/train'"
        )
    return str(pure(remote)), str(PurePosixPath(local))


def of_windows(path: str) -> bool:
    r"""True for an absolute path of Windows: `C:\train`, `C:/train`, `\\\\nas\share\train`."""
    return PureWindowsPath(path).is_absolute() and not path.startswith("/")


def pure(path: str) -> PurePath:
    """A path of the machine that it is from. Those of Windows are equal whatever their case and their slashes."""
    return PureWindowsPath(path) if of_windows(path) else PurePosixPath(path)


def translated(path: str, pairs: Iterable[tuple[str, str]]) -> str:
    """`path` with the longest first directory that fits replaced by the second."""
    given = pure(path)
    fitting = [pair for pair in pairs if type(pure(pair[0])) is type(given) and given.is_relative_to(pure(pair[0]))]
    if not fitting:
        return path
    old, new = max(fitting, key=lambda pair: len(pair[0]))
    return str(pure(new).joinpath(*given.relative_to(pure(old)).parts))


def check_reachable(path: str) -> str:
    """`path`, if it can be one of this machine, or a hub id.

    Raises:
        InputError: it is one of Windows, which no pair of the map has translated.
    """
    if of_windows(path):
        raise InputError(
            f"{path} is a path of Windows, and this worker is not told where that is here: start it with "
            f"--map '{PureWindowsPath(path).anchor}=/mnt/directory', then `rushes jobs retry`"
        )
    return path


def job_with(job: SampleJob, name: Translate) -> SampleJob:
    """The job with `name` applied to every file and directory in it."""
    checkpoint = job.checkpoint
    if checkpoint is not None:
        source = name(checkpoint.source) if checkpoint.source else None
        checkpoint = checkpoint.model_copy(update={"path": name(checkpoint.path), "source": source})
    return job.model_copy(
        update={
            "checkpoint": checkpoint,
            "loras": tuple(lora.model_copy(update={"path": name(lora.path)}) for lora in job.loras),
            "model": model_with(job.model, name),
            "prompt": prompt_with(job.prompt, name),
            "output_dir": name(job.output_dir),
        }
    )


def model_with(model: ModelSpec, name: Translate) -> ModelSpec:
    """The base model with `name` applied to all its files."""
    given = {field: getattr(model, field) for field in MODEL_FIELDS}
    return model.model_copy(update={field: name(value) for field, value in given.items() if value})
