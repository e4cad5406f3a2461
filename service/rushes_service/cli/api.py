"""`rushes api`: serve the REST API and the page."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from rushes.errors import ConfigError
from rushes_service.api.app import ApiServer, create_app
from rushes_service.settings import load_settings

BACKLOG = 128
"""Connections the kernel may hold while the server is busy; the usual value."""

ANY_ADDRESS = ("0.0.0.0", "::")
"""Of a socket that listens on every address of its machine."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `rushes api`; what is left out comes from the environment (`RUSHES_*`)."""
    parser.add_argument("--host", help="address to listen on (RUSHES_HOST; default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for any free one (RUSHES_PORT; default 8720)")
    parser.add_argument("--redis-url", help="Redis or Valkey server (RUSHES_REDIS_URL)")
    parser.add_argument(
        "--root",
        action="append",
        dest="roots",
        metavar="DIR",
        help="directory that requests may name files in; repeatable (RUSHES_ROOTS; default: the working directory)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        ConfigError: a setting is wrong, or the address cannot be listened on.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = load_settings(host=args.host, port=args.port, redis_url=args.redis_url, roots=args.roots)
    server = ApiServer(create_app(settings))
    with listen(settings.host, settings.port) as listener:
        # uvicorn stops by itself and then raises the signal again, for whoever was there before it.
        signal.signal(signal.SIGTERM, leave)
        print(f"Rushes is at {place(listener)} (Ctrl-C stops it)", flush=True)
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            return 0
    return 0


def leave(_: int, __: FrameType | None) -> None:
    """End the process."""
    sys.exit(0)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, bound here so that a refusal is a sentence and not a trace.

    Raises:
        ConfigError: the port is taken or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {reason}; choose another with --port or --host"
        ) from None
    return listener


def place(listener: socket.socket) -> str:
    """Where to find the page, as far as it is known from here: a container's name is no address."""
    host, port = listener.getsockname()[:2]
    if host in ANY_ADDRESS and in_container():
        return (
            f"port {port} of this container; open the address that it is published at, with /?token=... the first time"
        )
    return address(listener)


def in_container() -> bool:
    """True in a container of Docker, Podman or Kubernetes."""
    marks = Path("/.dockerenv"), Path("/run/.containerenv")
    return any(name in os.environ for name in ("container", "KUBERNETES_SERVICE_HOST")) or any(
        mark.exists() for mark in marks
    )


def address(listener: socket.socket) -> str:
    """Where a browser on this machine finds the page."""
    host, port = listener.getsockname()[:2]
    if host in ANY_ADDRESS:
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
