"""From enqueue to start: how long a sample waits for an idle worker, against a bare stream read.

Every queue has one idle worker process of its own and one producer here, on one server. They take turns: in each round
a task goes through each of them, after a random pause, `TASKS` times. All clocks are the machine's monotonic one.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness import (
    Report,
    Round,
    medians,
    new_round,
    parser,
    percentile,
    pooled,
    publish,
    ratios,
    rounds_of,
    undisturbed,
)
from queue_peers.signals import SOCKET_VARIABLE, URL_VARIABLE
from rushes_service.processes.embedded_redis import EmbeddedRedis

TASKS = 60
"""Per queue and round."""

PAUSES_S = (0.005, 0.02)
"""Between two tasks: the worker is waiting again by then, and no queue's polling falls into step with it."""

START_S = 20.0
"""How long a worker may take to answer its first task."""
TASK_S = 20.0

RAW, SUBJECT = "raw XADD -> XREADGROUP", "rushes"
QUEUES = {
    RAW: "raw_streams",
    SUBJECT: "rushes_queue",
    "taskiq-redis (stream)": "taskiq_queue",
    "SAQ": "saq_queue",
    "rq (SimpleWorker)": "rq_queue",
    "dramatiq": "dramatiq_queue",
}

HERE = Path(__file__).parent
Producers = dict[str, Callable[[str], int]]


def main() -> None:
    """Run the benchmark."""
    args = parser(__doc__.splitlines()[0]).parse_args()
    tasks = 5 if args.quick else TASKS
    with tempfile.TemporaryDirectory() as scratch, EmbeddedRedis(Path(scratch), port=0) as server:
        os.environ[URL_VARIABLE] = server.url
        os.environ[SOCKET_VARIABLE] = str(Path(scratch) / "started")
        with ExitStack() as stack:
            inbox = stack.enter_context(Inbox(Path(scratch) / "started"))
            producers, packages = begin(stack, inbox, server.url)
            rounds = [one_round(producers, inbox, tasks) for _ in range(rounds_of(args))]
    publish(reported(rounds, list(producers)), args, packages=packages)


class Inbox:
    """Where the workers' reports arrive."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def started(self, key: str, timeout_s: float) -> int:
        """The moment at which the task `key` began; raises `TimeoutError`."""
        self.socket.settimeout(timeout_s)
        while True:
            found, moment = self.socket.recv(256).decode().split()
            if found == key:
                return int(moment)


def begin(stack: ExitStack, inbox: Inbox, url: str) -> tuple[Producers, list[str]]:
    """Start a worker for each queue that is installed; return the producers, warm, and what is being measured."""
    producers: Producers = {}
    packages: list[str] = []
    for name, module in QUEUES.items():
        try:
            queue = importlib.import_module(f"queue_peers.{module}")
        except ModuleNotFoundError as error:
            print(f"  {name}: left out, {error} (pip install 'rushes[bench]')")
            continue
        stack.enter_context(worker(queue.command()))
        producers[name] = queue.producer(url)
        packages += queue.PACKAGES
        try:
            latency(producers[name], inbox, START_S)
        except TimeoutError:
            raise SystemExit(f"the worker of {name} did not start within {START_S:g} s") from None
    return producers, packages


@contextmanager
def worker(command: list[str]) -> Iterator[None]:
    """A worker process, in a group of its own: some of them start others."""
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    process = subprocess.Popen(
        command, cwd=HERE, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def one_round(producers: Producers, inbox: Inbox, tasks: int) -> Round:
    """Every queue in turn, `tasks` times."""
    taken = new_round()
    for _ in range(tasks):
        for name, send in producers.items():
            time.sleep(random.uniform(*PAUSES_S))
            taken[name].append(latency(send, inbox, TASK_S))
    return taken


def latency(send: Callable[[str], int], inbox: Inbox, timeout_s: float) -> float:
    """Seconds from just before the enqueuing to the start of the task."""
    key = f"{random.getrandbits(32):08x}"
    sent = send(key)
    return (inbox.started(key, timeout_s) - sent) / 1e9


def reported(rounds: list[Round], names: list[str]) -> Report:
    """The table."""
    report = Report("queue_latency", "Enqueue to start on an idle worker / raw XADD -> XREADGROUP BLOCK")
    report.add("rushes", ratios(rounds, SUBJECT, RAW), goal=2.0)
    report.add("rushes, undisturbed (10th percentiles)", [undisturbed(rounds, SUBJECT, RAW)], goal=2.0)
    peers = [name for name in names if name not in (RAW, SUBJECT)]
    for name in peers:
        report.add(name, ratios(rounds, name, RAW))
    for name in peers:
        report.add(f"rushes / {name}", ratios(rounds, SUBJECT, name), goal=1.0)
    for name in names:
        report.add(f"{name}, median", [value * 1e3 for value in medians(rounds, name)], unit="ms")
        report.add(f"{name}, p99", [percentile(pooled(rounds, name), 0.99) * 1e3], unit="ms")
    return report


if __name__ == "__main__":
    main()
