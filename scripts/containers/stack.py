"""A copy of this checkout as a new user has it, and its compose project."""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import Engine
from shell import Failed, run

ROOT = Path(__file__).parents[2]
PROJECT = "rushes-check"
"""Not the name in the compose file, under which a stack of the user's own may run."""


def free_port() -> int:
    """A port of the loopback address that nobody has."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


@dataclass
class Stack:
    """The services, their directories, and the client outside of them."""

    engine: Engine
    work: Path
    profile: str
    torch_index: str | None
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    api_port: int = field(default_factory=free_port)
    redis_port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.owner = os.getuid() or 1000
        self.group = os.getgid() or 1000
        self.checkout = self.work / "checkout"
        self.train = self.work / "train"
        self.model = self.work / "models" / "tiny_world"
        self.worker = "worker-cpu" if self.profile == "cpu" else self.profile.replace("gpu", "worker-")
        self.services = ("redis", "api", self.worker)

    def lay_out(self) -> None:
        """Copy what git knows or would take, fill in .env, make the directories."""
        for directory in (self.checkout, self.train, self.model.parent):
            shutil.rmtree(directory, ignore_errors=True)
        names = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.checkout / name)
        shutil.copytree(ROOT / "service/rushes_service/demo/tiny_world", self.model)
        self.train.mkdir()
        self.give(self.train)
        self.settings()

    def settings(self, **other: str | Path) -> None:
        """Write .env as a user does: the example, filled in."""
        values = {
            "RUSHES_TOKEN": self.token,
            "COMPOSE_PROFILES": self.profile,
            "TRAIN_DIR": self.train,
            "MODELS_DIR": self.model.parent,
            "RUSHES_UID": self.owner,
            "RUSHES_GID": self.group,
            "RUSHES_API_PORT": self.api_port,
            "RUSHES_REDIS_PORT": self.redis_port,
            **({"TORCH_INDEX": self.torch_index} if self.torch_index else {}),
            **other,
        }
        text = (self.checkout / ".env.example").read_text()
        for name, value in values.items():
            text, found = re.subn(rf"(?m)^{name}=.*$", f"{name}={value}", text)
            if not found:
                raise Failed(f".env.example does not name {name}")
        (self.checkout / ".env").write_text(text)

    def give(self, path: Path) -> None:
        """Make a directory the owner's, where this runs as root."""
        if os.geteuid() == 0:
            os.chown(path, self.owner, self.group)

    def run_directory(self, name: str) -> Path:
        """The output directory of a training run, as its trainer makes it."""
        directory = self.train / name
        directory.mkdir(exist_ok=True)
        self.give(directory)
        return directory

    def compose(self, *arguments: str, log: str = "compose") -> str:
        """Run `docker compose` on the copy."""
        command = ("docker", "compose", "--project-name", PROJECT, "--project-directory", self.checkout, *arguments)
        return run(*command, environment=self.engine.environment, log=self.work / "log" / log)

    def inside(self, service: str, *command: str) -> str:
        """Run something in a service's container."""
        return self.compose("exec", "-T", service, *command)

    def inspect(self, service: str, form: str) -> str:
        """A field of a service's container, by a Go template."""
        container = self.container(service)
        return run("docker", "inspect", "-f", form, container, environment=self.engine.environment).strip()

    def container(self, service: str) -> str:
        """Id of a service's container, whether it runs or not."""
        return self.compose("ps", "--all", "--quiet", service).strip()

    def healthy(self) -> bool:
        """True if every service says that it is well."""
        return all(self.inspect(name, "{{.State.Health.Status}}") == "healthy" for name in self.services)

    def status(self, path: str, *, token: bool = False) -> int:
        """HTTP status of a page of the API."""
        try:
            with self.get(path, token=token) as answer:
                return answer.status
        except urllib.error.HTTPError as refusal:
            return refusal.code

    def get(self, path: str, *, token: bool = True) -> http.client.HTTPResponse:
        """An answer of the API, to be closed."""
        headers = {"Authorization": f"Bearer {self.token}"} if token else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.api_port}/{path}", headers=headers)
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=10)
        return answer

    def rushes(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The client, outside of containers."""
        environment = {**os.environ, "RUSHES_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0"}
        command = [sys.executable, "-m", "rushes", *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)

    def submit(
        self, name: str, prompts: Path, *more: str, output: Path | str | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Ask for samples of the base model as a run of that name; the finished process."""
        directory = output or self.run_directory(name)
        return self.rushes(
            *("submit", "--architecture", "wan2.1-t2v", "--rushes_model", self.model, "--sample_prompts", prompts),
            *("--output_dir", directory, "--output_name", name, "--rushes_run", name, *more),
            cwd=cwd,
        )

    def jobs(self, run_name: str, state: str) -> list[dict[str, Any]]:
        """Samples of a run in a state."""
        lines = self.rushes("jobs", "list", "--run", run_name, "--state", state, "--json").stdout.splitlines()
        return [json.loads(line) for line in lines]
