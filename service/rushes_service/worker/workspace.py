"""The workspace of one sample: its files under this machine's paths, and the place its media are published to."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rushes.checkpoints.store import is_url, store_of
from rushes.wire.jobs import SampleJob
from rushes_service.media.writing import Written
from rushes_service.storage.path_map import PathMap, check_reachable, job_with
from rushes_service.storage.staged import StagedFiles

Retry = Callable[[Callable[[], Any]], Any]
"""Calls a function that needs the store and returns its result; see `StoreRetry`."""


def without_retry(ask: Callable[[], Any]) -> Any:
    """A `Retry` that calls once."""
    return ask()


@dataclass(frozen=True)
class Workspace:
    """A job with its files under this machine's paths.

    `urls` maps local paths of files that were fetched from a store to their URLs. `store` is the URL that media are
    uploaded to, None if they stay where they are written. `retry` wraps every call that needs the store.
    """

    job: SampleJob
    paths: PathMap
    urls: Mapping[str, str] = field(default_factory=dict)
    store: str | None = None
    retry: Retry = without_retry

    def facts_to_remote(self, facts: Any) -> Any:
        """JSON-able facts with every path of this machine replaced by the submitter's path or URL."""
        facts = self.paths.facts_to_remote(facts)
        return renamed(facts, self.urls) if self.urls else facts

    def publish(self, written: Written, guard: Callable[[], None]) -> tuple[str, str]:
        """Publish media and receipt; returns the submitter's paths (or URLs) of both.

        Raises:
            StagingError: the store was unreachable for too long.
            SampleStopped: this worker no longer owns the sample; from `guard` or `retry`.
        """
        store = self.store
        if store is None:
            return self.paths.to_remote(str(written.path)), self.paths.to_remote(str(written.receipt_path))
        root = Path(self.job.output_dir)
        files = written.receipt_path, written.path  # the receipt first: a reader that sees the media finds it
        urls = [f"{store}/{file.relative_to(root).as_posix()}" for file in files]

        def put(file: Path, url: str) -> None:
            guard()  # each time: it may have waited long
            store_of(store).put(file, url)

        for file, url in zip(files, urls, strict=True):
            self.retry(functools.partial(put, file, url))
        return urls[1], urls[0]


@contextlib.contextmanager
def open_workspace(
    job: SampleJob, paths: PathMap, staged: StagedFiles, retry: Retry = without_retry
) -> Iterator[Workspace]:
    """Fetch the files of a sample and yield its workspace; files that were not published are removed with it.

    Args:
        patient: calls what needs the store, again if it is away.

    Raises:
        StagingError: a file cannot be fetched.
        InputError: a file of Windows, of which this machine does not know the place.
    """
    local_job = job_with(paths.job_to_local(job), check_reachable)
    if job.staging is None or not is_url(job.output_dir):
        yield Workspace(local_job, paths)
        return
    urls: dict[str, str] = {}
    staging = job.staging

    def fetch(path: str) -> str:
        if not path.startswith(f"{staging}/"):
            return path
        local = str(retry(lambda: staged.fetch(staging, path)))
        urls[local] = path
        return local

    with staged.work_directory(job.id) as directory:
        local = job_with(local_job.model_copy(update={"output_dir": str(directory)}), fetch)
        yield Workspace(local, paths, urls, job.output_dir, retry)


def renamed(facts: Any, names: Mapping[str, str]) -> Any:
    """JSON-able facts with some texts replaced by others."""
    if isinstance(facts, str):
        return names.get(facts, facts)
    if isinstance(facts, dict):
        return {key: renamed(value, names) for key, value in facts.items()}
    if isinstance(facts, (list, tuple)):
        return [renamed(value, names) for value in facts]
    return facts
