"""A place that machines without a common file system share: any URL that fsspec can write to, `s3://bucket/runs`.

Credentials and the endpoint come from the environment, as the store's own tools read them; they are never part of the
URL, which goes into Redis and into receipts. fsspec is imported by the first use of a store and never before.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import importlib.util
import logging
import time
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rushes._paths import SNAPSHOT_DIR
from rushes.errors import ConfigError, StagingError, StoreUnavailable

logger = logging.getLogger("rushes")

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "r2"})
"""They have no directories. Asking for one would make a bucket."""


DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Of this machine, not of the store."""

REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL})
"""What s3fs makes of an answer that says no: a wrong key, an expired token, a bucket of another region."""

REFUSALS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "ParamValidationError",
        "DefaultCredentialsError",
        "ClientAuthenticationError",
    }
)
"""Errors of the stores' own packages that mean the same before anything is asked: no credentials, no such name."""


def is_url(path: str) -> bool:
    """True for the name of a file in a store."""
    return "://" in path


def check_url(url: str) -> str:
    """`url` without a slash at its end.

    Raises:
        ConfigError: it is no URL, holds credentials, or fsspec is not installed.
    """
    if not is_url(url):
        raise ConfigError(f"--rushes_staging {url!r}: must be a URL, such as s3://bucket/runs")
    if "@" in urlsplit(url).netloc:
        raise ConfigError("--rushes_staging: keep credentials in the environment; the URL goes into Redis and receipts")
    if importlib.util.find_spec("fsspec") is None:
        raise ConfigError("--rushes_staging needs fsspec: pip install 'rushes[s3]'")
    return url.rstrip("/")


class Store:
    """Files by their URLs.

    Every method raises `StoreUnavailable` when the store cannot be reached, and `StagingError` when it refuses.
    """

    def __init__(self, url: str) -> None:
        with reaching(url):
            fsspec: Any = importlib.import_module("fsspec.core")
            # Without a cache of listings: other machines write and remove files, too.
            self._located: Any = functools.partial(fsspec.url_to_fs, use_listings_cache=False)
            self._files: Any = self._located(url)[0]
        protocol: Any = self._files.protocol
        protocols: set[str] = {protocol} if isinstance(protocol, str) else set(protocol)
        self._has_directories = not protocols & OBJECT_STORES

    def size(self, url: str) -> int | None:
        """Bytes of a file; None if it is not there."""
        with reaching(url):
            try:
                return int(self._files.info(url)["size"])
            except FileNotFoundError:
                return None

    def put(self, local: Path, url: str) -> None:
        """Write a file, or replace one."""
        with reaching(url):
            if self._has_directories:
                self._files.makedirs(url.rpartition("/")[0], exist_ok=True)
            try:
                self._files.put_file(str(local), url)
            except FileNotFoundError as error:  # on upload this can only mean that the bucket is missing
                raise StagingError(f"{url} cannot be written: {error}; look at the bucket's name") from error

    def get(self, url: str, local: Path) -> None:
        """Read a file into another one."""
        with reaching(url):
            self._files.get_file(url, str(local))

    def names_below(self, url: str) -> list[str]:
        """Names of the files of a directory and of those in it, relative to it, sorted; nothing if there is none."""
        with reaching(url):
            root = str(self._located(url)[1]).rstrip("/") + "/"
            found: list[str] = self._files.find(url)
        return sorted(str(path).removeprefix(root) for path in found)

    def older(self, directory: str, seconds: float) -> Iterator[str]:
        """URLs of the files in a directory that were written at least so long ago."""
        for name in self.names_below(directory):
            url = f"{directory}/{name}"
            with contextlib.suppress(FileNotFoundError, NotImplementedError), reaching(url):
                if time.time() - self._files.modified(url).timestamp() > seconds:
                    yield url

    def remove(self, url: str) -> None:
        """Delete a file, if it is there."""
        with reaching(url), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(url)


def remove_snapshot(url: str) -> None:
    """Delete a staged checkpoint; any other file is left alone. A failure is logged."""
    if f"/{SNAPSHOT_DIR}/" in url:
        try:
            store_of(url.partition(f"/{SNAPSHOT_DIR}/")[0]).remove(url)
        except StagingError as error:
            logger.warning("rushes: a checkpoint that no sample needs cannot be removed from the store: %s", error)


@cache
def store_of(root: str) -> Store:
    """The store of a root URL; one for all threads of a process."""
    return Store(root)


@contextlib.contextmanager
def reaching(url: str) -> Generator[None]:
    """Turn every error of an fsspec file system into `StagingError`, except that a file does not exist.

    Raises:
        StoreUnavailable: the error may pass by itself. A refusal and a full disk of this machine do not.
    """
    try:
        yield
    except (FileNotFoundError, NotImplementedError, StagingError):
        raise
    except ImportError as error:
        raise StagingError(f"{url}: {error}; pip install 'rushes[s3]', or what fsspec needs for this URL") from error
    except Exception as error:
        # Each file system has errors of its own, not all of them OSErrors.
        reason = str(error) or type(error).__name__
        if getattr(error, "errno", None) in DISK_FULL:
            raise StagingError(f"{url}: {reason}") from error
        if refusal(error):
            raise StagingError(
                f"{url} is refused: {reason}; look at the URL, at the credentials in this process's environment, "
                "and at what they are allowed to do"
            ) from error
        raise StoreUnavailable(f"{url} cannot be reached: {reason}") from error


def refusal(error: Exception) -> bool:
    """True for an answer that stays the same until a user changes the URL, the credentials or the permissions."""
    return (
        isinstance(error, PermissionError)
        or type(error) is ValueError  # a URL or an endpoint that is none
        or getattr(error, "errno", None) in REFUSED
        or type(error).__name__ in REFUSALS
    )
