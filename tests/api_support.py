"""A running API over a real server, and samples in the states that tests of it need."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from rushes.client.client import Client
from rushes.wire import keys
from rushes.wire.jobs import Prompt, SampleJob
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobState, SampleResult
from rushes_service.api import create_app
from rushes_service.api.app import ApiServer
from rushes_service.settings import Settings
from support import wait_until

MODEL = ModelSpec(architecture="wan2.1-t2v")


@dataclass
class Api:
    """One running API: its address, its settings, and the queue behind it."""

    url: str
    settings: Settings
    queue: Client
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        token = self.settings.token
        headers = {b"Authorization": f"Bearer {token.get_secret_value()}".encode()} if token else {}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=60)

    @property
    def root(self) -> Path:
        """The directory that requests may name files in."""
        return self.settings.roots[0]


@contextmanager
def serving(redis_url: str, root: Path, port: int = 0, **settings: Any) -> Iterator[Api]:
    """A real server in a thread; fails if it does not stop by itself at the end."""
    chosen = Settings(**{"redis_url": redis_url, "roots": (root,), "cache_dir": root / "cache", **settings})
    server = ApiServer(create_app(chosen))
    with socket.create_server(("127.0.0.1", port)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started, 20, "the API to start")
        api = Api(f"http://127.0.0.1:{port}", chosen, Client(redis_url))
        try:
            yield api
        finally:
            api.http.close()
            api.queue.close()
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive(), "the API did not stop"


def job(number: int, root: Path, **changes: Any) -> SampleJob:
    """A sample that nobody makes."""
    defaults: dict[str, Any] = {
        "id": f"{number:032x}",
        "run": "cat",
        "submission": "s",
        "model": MODEL,
        "prompt": Prompt(prompt=f"a cat, take {number}", width=64, height=64, seed=number),
        "prompt_index": number,
        "output_dir": str(root),
    }
    return SampleJob(**{**defaults, **changes})


def done(queue: Client, job: SampleJob, path: Path | str) -> str:
    """Submit a sample and record `path` as its file, as a worker's last word would."""
    queue.submit([job])
    kind = "video/mp4" if str(path).endswith(".mp4") else "image/png"
    ended(queue, job, JobState.DONE, path=str(path), media_type=kind, width=64, height=64)
    return f"/v1/samples/{job.id}/media"


def ended(queue: Client, job: SampleJob, state: JobState, **result: Any) -> None:
    """Write how a submitted sample ended into its record."""
    queue.redis.hset(
        keys.job(job.id), mapping={"state": state.value, "result": SampleResult.of(job, state, **result).encode()}
    )


def announce(queue: Client, kind: str, job_id: str, run: str = "cat", **data: Any) -> str:
    """Add an event to the stream; returns its id."""
    return str(queue.redis.xadd(keys.EVENTS, {"type": kind, "id": job_id, "run": run, "data": json.dumps(data)}))


def picture(path: Path) -> Path:
    """A real PNG whose bytes do not compress away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3)).save(path)
    return path
