"""Paths of other machines: what a trainer calls `/train/out` may be `/mnt/train/out` where the worker is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from rushes.errors import ConfigError
from rushes.wire.job_files import prompt_with
from rushes.wire.jobs import ModelSpec, SampleJob

MODEL_FIELDS = tuple(name for name, field in ModelSpec.model_fields.items() if field.annotation == (str | None))
"""Parts of a base model that are files or directories: all that are plain text, but for the family."""

Translate = Callable[[str], str]


@dataclass(frozen=True)
class PathMap:
    """Directories by their two names: the submitter's, and the one on this machine. The longest that fits counts."""

    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> PathMap:
        """A map from texts like `/train=/mnt/train`.

        Raises:
            ConfigError: one of them is not two absolute paths.
        """
        return cls(tuple(parse_pair(text) for text in texts))

    def here(self, path: str) -> str:
        """What this machine calls a path of the submitter's; anything else (a hub id, say) as it is."""
        return translated(path, self.pairs)

    def there(self, path: str) -> str:
        """What the submitter calls a path of this machine."""
        return translated(path, [(here, there) for there, here in self.pairs])

    def job_here(self, job: SampleJob) -> SampleJob:
        """A job whose files are named as on this machine."""
        return job_with(job, self.here) if self.pairs else job

    def all_there(self, facts: Any) -> Any:
        """JSON-able facts in which every path of this machine has become the submitter's."""
        if not self.pairs:
            return facts
        if isinstance(facts, str):
            return self.there(facts)
        if isinstance(facts, dict):
            return {key: self.all_there(value) for key, value in facts.items()}
        if isinstance(facts, (list, tuple)):
            return [self.all_there(value) for value in facts]
        return facts


def parse_pair(text: str) -> tuple[str, str]:
    """The submitter's directory and this machine's."""
    there, equals, here = text.partition("=")
    if not equals or not there.startswith("/") or not here.startswith("/"):
        raise ConfigError(f"--map {text!r}: write THERE=HERE, two absolute directories, such as /train=/mnt/train")
    return str(PurePosixPath(there)), str(PurePosixPath(here))


def translated(path: str, pairs: Iterable[tuple[str, str]]) -> str:
    """`path` with the longest first directory that fits replaced by the second."""
    fitting = [pair for pair in pairs if PurePosixPath(path).is_relative_to(pair[0])]
    if not fitting:
        return path
    old, new = max(fitting, key=lambda pair: len(pair[0]))
    return str(PurePosixPath(new) / PurePosixPath(path).relative_to(old))


def job_with(job: SampleJob, name: Translate) -> SampleJob:
    """A job in which every file and directory is called what `name` says."""
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
    """A base model whose files are called what `name` says."""
    given = {field: getattr(model, field) for field in MODEL_FIELDS}
    return model.model_copy(update={field: name(value) for field, value in given.items() if value})
