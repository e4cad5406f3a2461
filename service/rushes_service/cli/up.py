"""`rushes up`: everything on one machine, from one command, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from rushes.errors import ConfigError
from rushes.wire import connection
from rushes_service.api.http.security import check_exposure
from rushes_service.processes import gpus
from rushes_service.processes.child import Program
from rushes_service.processes.embedded_redis import EmbeddedRedis
from rushes_service.processes.supervisor import Supervisor
from rushes_service.settings import Settings, load_settings

DEVICE = re.compile(r"cpu|cuda:\d+|mps")

VISIBLE = "CUDA_VISIBLE_DEVICES"
AMD_VISIBLE = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")

HAND_BACK_S = 15.0
"""After its grace a worker still hands its sample back and leaves; only then is it killed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes up`; what is not given comes from `RUSHES_*` or its default."""
    parser.add_argument("--devices", help="cpu, or cuda:0,cuda:1,..., or auto (every GPU, else the CPU; default)")
    parser.add_argument(
        "--attention", metavar="NAME", help="what computes attention, see rushes worker (default: auto)"
    )
    parser.add_argument("--host", help="address of the API (default: loopback; elsewhere RUSHES_TOKEN is required)")
    parser.add_argument("--port", type=int, help="port of the API (default: 8720)")
    parser.add_argument("--redis-url", help="use this Redis instead of starting the bundled Valkey server")
    parser.add_argument("--state-dir", type=Path, help="where the bundled Valkey server keeps its data")


def run(args: argparse.Namespace) -> int:
    """Run until a signal; 0 after a clean stop, 1 if a part cannot run."""
    settings = load_settings(
        host=args.host,
        port=args.port,
        redis_url=args.redis_url,
        state_dir=args.state_dir,
        attention=args.attention,
    )
    devices = devices_of(args.devices or settings.device)
    check_exposure(settings)
    check_port_free(settings.host, settings.port)
    with contextlib.ExitStack() as stack:
        server = None
        if "redis_url" not in settings.model_fields_set:
            server = stack.enter_context(EmbeddedRedis(settings.state_dir))
        url = server.url if server else settings.redis_url
        check_reachable(url)
        print_line = Printer([*(worker_name(device) for device in devices), "api", "rushes"])
        supervisor = Supervisor(
            programs(settings, url, devices),
            grace_s=settings.grace_s + HAND_BACK_S,
            print_line=print_line,
            watch=(lambda: revive(server, print_line)) if server else (lambda: None),
        )
        print(overview(settings, url, server, devices), flush=True)
        return supervisor.run()


def devices_of(asked: str) -> list[str]:
    """Device names out of `--devices`.

    Raises:
        ConfigError: a name that is no device, or named twice; or the GPUs cannot be asked.
    """
    devices = [part.strip() for part in asked.split(",") if part.strip()]
    if devices == ["auto"]:
        report = gpus.ask()
        if report.error:  # not the CPU without a word: samples would take days
            raise ConfigError(
                f"the GPUs cannot be asked: {report.error}. Say which to use (--devices cuda:0), or --devices cpu"
            )
        return [gpu.device for gpu in report.gpus] or ["cpu"]
    wrong = [device for device in devices if not DEVICE.fullmatch(device)]
    if wrong or not devices:
        named = ", ".join(wrong) or "nothing"
        raise ConfigError(f"--devices: {named} is no device; write cpu, or cuda:0,cuda:1, or auto")
    if len(set(devices)) < len(devices):
        raise ConfigError(f"--devices {asked}: a device is named twice; one worker per device is what it can carry")
    return devices


def check_port_free(host: str, port: int) -> None:
    """Fail now rather than in the log of a child.

    Raises:
        ConfigError: the API cannot listen there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(
            f"the API cannot listen on {host}:{port}: {error.strerror}; give another --port or --host"
        ) from error


def check_reachable(url: str) -> None:
    """Fail now if there is no Redis at `url`.

    Raises:
        ConfigError: not a Redis URL.
        QueueUnavailable: it does not answer.
    """
    advice = f"start it, or do without --redis-url and {connection.URL_VARIABLE}: then one is started here"
    with connection.reachable(url, advice=advice), contextlib.closing(connection.connect(url)) as redis:
        redis.ping()


def programs(settings: Settings, url: str, devices: list[str]) -> list[Program]:
    """The API and one worker per device. The URL may hold a password, so it travels in the environment."""
    rushes = (sys.executable, "-m", "rushes")
    environment = {connection.URL_VARIABLE: url}
    api = (*rushes, "api", "--host", settings.host, "--port", str(settings.port))
    worker = (*rushes, "worker", "--attention", settings.attention)
    # A worker that decodes on a second GPU has to see that one, too.
    alone = settings.decode_device is None
    workers = [worker_program(device, worker, environment, alone=alone) for device in devices]
    return [Program("api", api, environment), *workers]


def worker_program(
    device: str, worker: tuple[str, ...], environment: Mapping[str, str], *, alone: bool = True
) -> Program:
    """A worker. `alone` it sees its own GPU only, as its first one, so that nothing in it can take another's memory."""
    visible = visible_alone(device, os.environ) if alone else None
    if visible is None:
        return Program(worker_name(device), (*worker, "--device", device), environment)
    shown = {VISIBLE: visible, "RUSHES_SHOWN_DEVICE": device}
    return Program(worker_name(device), (*worker, "--device", "cuda:0"), {**environment, **shown})


def visible_alone(device: str, environment: Mapping[str, str]) -> str | None:
    """What `CUDA_VISIBLE_DEVICES` must be to show `device` alone: its entry of the list that is there, or its index.

    None if it is no CUDA device, or not in the list; or AMD's own variables choose the GPUs first.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or any(environment.get(name) for name in AMD_VISIBLE):
        return None
    if VISIBLE not in environment:
        return number
    entries = [entry.strip() for entry in environment[VISIBLE].split(",")]
    return entries[int(number)] or None if int(number) < len(entries) else None


def revive(server: EmbeddedRedis, print_line: Printer) -> None:
    """Restart the embedded server if it has died; its file holds the queue."""
    if not server.running:
        print_line("rushes", "the embedded Valkey server ended; starting it again with its data")
        server.start()


def overview(settings: Settings, url: str, server: EmbeddedRedis | None, devices: list[str]) -> str:
    """The parts and their addresses, and the next commands to type."""
    shown = connection.shown(url)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    rows = [
        ("redis", shown, f"embedded, data in {server.data_dir}" if server else "yours"),
        ("api", f"http://{host}:{settings.port}", "gallery, REST, events"),
        *(("worker", device, "restarted if it dies") for device in devices),
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    table = [f"  {name:<{widths[0]}}  {where:<{widths[1]}}  {note}" for name, where, note in rows]
    hints = ["  Ctrl-C stops everything."]
    if server and url != connection.DEFAULT_URL:  # the usual port was taken: trainers would look there
        hints.insert(0, f"  In the trainer's shell:  export {connection.URL_VARIABLE}={url}")
    return "\n".join(["", *table, "", *hints, ""])


def worker_name(device: str) -> str:
    """The name that a device's worker has in our output."""
    return f"worker {device}"


class Printer:
    """Prints lines of several speakers, their names in one column."""

    def __init__(self, names: list[str]) -> None:
        self._width = max(len(name) for name in names)

    def __call__(self, name: str, text: str) -> None:
        """Print `text` as a line of `name`."""
        print(f"{name:<{self._width}} | {text}", flush=True)
