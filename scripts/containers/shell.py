"""Commands, and waiting for what they bring about."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

POLL_S = 1.0


class Failed(Exception):
    """A command that had to succeed did not; the message is its output's end."""


def run(
    *command: str | Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    stdin: str | None = None,
) -> str:
    """Run a command to its end; returns what it printed, errors among it.

    Raises:
        Failed: it ended with another exit code than 0.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        env=environment,
        cwd=cwd,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write(f"$ {' '.join(words)}\n{done.stdout}")
    if done.returncode:
        end = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise Failed(f"exit code {done.returncode} of {' '.join(words)}:\n{end}")
    return done.stdout


def succeeds(*command: str | Path, environment: Mapping[str, str] | None = None) -> bool:
    """True if a command ends with exit code 0."""
    try:
        run(*command, environment=environment)
    except (Failed, FileNotFoundError):
        return False
    return True


def waits_for(condition: Callable[[], bool], limit_s: float) -> bool:
    """True as soon as a condition holds; False if it does not within the limit."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True
