"""Where one sample is made: under which names this machine has its files, and where its media go when they are done."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rushes.checkpoints.store import is_url, store_of
from rushes.wire.jobs import SampleJob
from rushes_service.media import Written
from rushes_service.storage.staged import StagedFiles
from rushes_service.worker.path_map import PathMap, job_with

Patient = Callable[[Callable[[], Any]], Any]
"""Calls something that needs the store and returns what that returns; see `StoreRetry`."""


def at_once(ask: Callable[[], Any]) -> Any:
    """`Patient` without patience."""
    return ask()


@dataclass(frozen=True)
class Workspace:
    """A sample with its files as this machine calls them.

    `urls` are those of files that were fetched from a store, by their place here; `store` is where the media go, None
    when they stay where they were written. `patient` calls what needs the store.
    """

    job: SampleJob
    paths: PathMap
    urls: Mapping[str, str] = field(default_factory=dict)
    store: str | None = None
    patient: Patient = at_once

    def told(self, facts: Any) -> Any:
        """JSON-able facts in which every path of this machine has become the submitter's."""
        facts = self.paths.all_there(facts)
        return renamed(facts, self.urls) if self.urls else facts

    def publish(self, written: Written, guard: Callable[[], None]) -> tuple[str, str]:
        """Bring media and receipt to where the submitter looks for them; what they are called there.

        Raises:
            StagingError: the store cannot be reached, for too long.
            SampleStopped: the sample is no longer ours; from `guard` or `patient`.
        """
        store = self.store
        if store is None:
            return self.paths.there(str(written.path)), self.paths.there(str(written.receipt_path))
        root = Path(self.job.output_dir)
        files = written.receipt_path, written.path  # whoever sees the media finds the receipt
        urls = [f"{store}/{file.relative_to(root).as_posix()}" for file in files]

        def put(file: Path, url: str) -> None:
            guard()  # each time: it may have waited long
            store_of(store).put(file, url)

        for file, url in zip(files, urls, strict=True):
            self.patient(functools.partial(put, file, url))
        return urls[1], urls[0]


@contextlib.contextmanager
def workplace(job: SampleJob, paths: PathMap, staged: StagedFiles, patient: Patient = at_once) -> Iterator[Workspace]:
    """The workplace of a sample, its files fetched; what was written there and not published goes with it.

    Args:
        patient: calls what needs the store, again if it is away.

    Raises:
        StagingError: a file cannot be fetched.
    """
    here = paths.job_here(job)
    if job.staging is None or not is_url(job.output_dir):
        yield Workspace(here, paths)
        return
    urls: dict[str, str] = {}
    staging = job.staging

    def fetch(path: str) -> str:
        if not path.startswith(f"{staging}/"):
            return path
        local = str(patient(lambda: staged.fetch(staging, path)))
        urls[local] = path
        return local

    with staged.workplace(job.id) as directory:
        local = job_with(here.model_copy(update={"output_dir": str(directory)}), fetch)
        yield Workspace(local, paths, urls, job.output_dir, patient)


def renamed(facts: Any, names: Mapping[str, str]) -> Any:
    """JSON-able facts with some texts replaced by others."""
    if isinstance(facts, str):
        return names.get(facts, facts)
    if isinstance(facts, dict):
        return {key: renamed(value, names) for key, value in facts.items()}
    if isinstance(facts, (list, tuple)):
        return [renamed(value, names) for value in facts]
    return facts
