"""Build the images, run the compose file, and try what must hold: `make containers`.

A quarter of an hour and 8 GB of disk. It needs a container engine: Docker with compose 2.24. On a bare Debian, as root,
`--bare` unpacks one for the run, with base images of its own; that needs Debian's mirror and PyPI, no hub of images.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import stand_ins
from checks import Checks
from engine import BRIDGE, Engine, present, unpacked
from shell import Failed, run
from stack import PROJECT, Stack


def main() -> int:
    """Find an engine and run; 0 if all holds, 1 if not, 2 if there is no engine."""
    parser = argparse.ArgumentParser(prog="make containers", description=__doc__)
    parser.add_argument("--bare", action="store_true", help="unpack an engine from Debian's packages (root, Debian)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / PROJECT, help="directory to work in")
    parser.add_argument("--keep", action="store_true", help="with --bare: keep engine and images for the next run")
    parser.add_argument("--profile", default="cpu", help="of the compose file: cpu, or gpu0 to gpu3 (default: cpu)")
    parser.add_argument("--wheels", type=Path, help="with --bare: directory of PyTorch's wheel for the CPU")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops services and engine, too
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        with engine_for(args.bare, work) as engine, index_of(args.wheels) as torch_index:
            failed = try_out(Stack(engine, work, args.profile, torch_index))
    except Failed as reason:
        print(f"The images were not tried: {reason}", file=sys.stderr)
        if not args.bare:
            print("On a Debian, as root: make containers ARGS=--bare", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    finally:
        clear(work, everything=not args.keep)
    return 1 if failed else 0


def clear(work: Path, *, everything: bool) -> None:
    """Remove what the run made but its logs; with `everything`, engine and images of --bare, too."""
    kept = {"log"} if everything else {"log", "engine", "config", "data"}
    for path in work.iterdir():
        if path.name not in kept and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in kept:
            path.unlink()
    print(f"logs: {work / 'log'}")


@contextlib.contextmanager
def engine_for(bare: bool, work: Path) -> Iterator[Engine]:
    """The engine to use, with base images."""
    if not bare:
        yield present()
        return
    with unpacked(work) as engine:
        stand_ins.make(engine, work)
        yield engine


@contextlib.contextmanager
def index_of(wheels: Path | None) -> Iterator[str | None]:
    """Serves a directory of wheels to builds as an index of one package; its address."""
    if wheels is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "torch").symlink_to(wheels.resolve())
        handler = functools.partial(Quiet, directory=name)
        with http.server.ThreadingHTTPServer((BRIDGE, 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://{BRIDGE}:{server.server_port}/"
            server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that prints nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Report:
    """Prints what holds and what took how long."""

    def __init__(self) -> None:
        self.began = self.mark = time.monotonic()
        self.failed = self.passed = 0

    def step(self, text: str) -> None:
        """A part is over."""
        now = time.monotonic()
        print(f"{now - self.began:4.0f} s  ({now - self.mark:3.0f} s)  {text}", flush=True)
        self.mark = now

    def check(self, text: str, holds: bool) -> None:
        """One thing that must hold."""
        print(f"            {'ok  ' if holds else 'FAIL'}  {text}", flush=True)
        self.passed += holds
        self.failed += not holds


def try_out(stack: Stack) -> int:
    """Build, run, stop; how many checks failed."""
    report = Report()
    stack.lay_out()
    try:
        for service in ("api", stack.worker):
            stack.compose("build", service, log=f"build-{service}")
            report.step(f"{service} built, {size(stack, service)}")
        checks = Checks(stack, report.check)
        steps = (checks.directories, checks.up, checks.access, checks.sample, checks.killed)
        for step in (*steps, checks.stopped, checks.redis_away, checks.down):
            step()
            report.step(step.__name__.replace("_", " "))
    finally:
        with contextlib.suppress(Failed):
            (stack.work / "log" / "services").write_text(stack.compose("logs", "--no-color"))
            stack.compose("--profile", "*", "down", "--volumes", "--timeout", "5")
    load = " ".join(f"{part:.1f}" for part in os.getloadavg())
    print(f"{report.passed} passed, {report.failed} failed; load {load}")
    return report.failed


def size(stack: Stack, service: str) -> str:
    """Size of a service's image."""
    image = f"{PROJECT}-{service}"
    text = run("docker", "image", "inspect", "-f", "{{.Size}}", image, environment=stack.engine.environment)
    return f"{int(text) / 1e6:.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
