"""The container engine: the one that runs here, or on a bare Debian one that is unpacked for this run alone.

The unpacked engine consists of Debian's packages, in a directory; none of them is installed. It has its own socket and
its own store of images, and takes back what it did to the network when it ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shell import Failed, run, succeeds, waits_for

OLDEST_COMPOSE = (2, 24)
"""Of `env_file` with `required`."""

ENGINE_SUITE = "trixie"
ENGINE_PACKAGES = ("docker.io", "docker-cli", "docker-compose", "docker-buildx", "containerd")
"""Debian 12's compose is too old, so that the engine is Debian 13's, which runs on both."""

HELPERS = ("iptables", "runc", "tini", "mmdebstrap")
"""From the machine's own release, with the libraries that it lacks."""

BRIDGE = "172.17.0.1"
"""The host as builds see it, on the engine's default network."""


@dataclass(frozen=True)
class Engine:
    """How to reach an engine: the environment of its commands; `files` where one was unpacked."""

    environment: dict[str, str]
    files: Path | None = None


def present() -> Engine:
    """The engine of this machine.

    Raises:
        Failed: there is none, with the reason.
    """
    environment = dict(os.environ)
    if not shutil.which("docker"):
        raise Failed("there is no command `docker` here")
    run("docker", "info", environment=environment)
    version = run("docker", "compose", "version", "--short", environment=environment).strip()
    found = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if found < OLDEST_COMPOSE:
        raise Failed(f"docker compose is {version}, and the compose file needs {'.'.join(map(str, OLDEST_COMPOSE))}")
    return Engine(environment)


@contextlib.contextmanager
def unpacked(work: Path) -> Iterator[Engine]:
    """An engine from Debian's packages below `work`, running.

    Raises:
        Failed: this is no Debian, not root, another engine runs, or it did not start.
    """
    if os.geteuid() != 0 or not Path("/etc/debian_version").is_file():
        raise Failed("--bare needs root on a Debian: it starts a container engine from Debian's packages")
    if Path("/sys/class/net/docker0").exists():
        raise Failed("there is an interface docker0: another engine runs, or did not clean up")
    files = work / "engine"
    if not (files / "usr/sbin/dockerd").exists():
        unpack(files, work)
    environment = environment_of(files, work)
    with network_as_before(files, environment), daemon(files, work, environment):
        yield Engine(environment, files)


def unpack(files: Path, work: Path) -> None:
    """Download and unpack the engine and what it needs."""
    log = work / "log" / "engine"
    with tempfile.TemporaryDirectory(dir=work) as name:
        directory = Path(name)
        configuration = other_release(directory)
        environment = {**os.environ, "APT_CONFIG": str(configuration), "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-q", environment=environment, log=log)
        run("apt-get", "download", "-q", *ENGINE_PACKAGES, environment=environment, cwd=directory, log=log)
        archives = directory / "archives"
        (archives / "partial").mkdir(parents=True)
        run("apt-get", "update", "-q", log=log)
        options = ("--download-only", "--yes", "--no-install-recommends", "-o", f"Dir::Cache::archives={archives}")
        run("apt-get", "install", "-q", "--reinstall", *options, *HELPERS, log=log)
        for package in [*directory.glob("*.deb"), *archives.glob("*.deb")]:
            run("dpkg", "-x", package, files, log=log)
    for name in (
        "iptables",
        "iptables-save",
        "iptables-restore",
        "ip6tables",
    ):  # links that packages make when installed
        (files / "usr/sbin" / name).symlink_to("xtables-nft-multi")
    init = files / "usr/bin/docker-init"  # what compose's `init: true` takes
    init.unlink(missing_ok=True)
    shutil.copy(files / "usr/bin/tini-static", init)


def mirror() -> str:
    """Where this machine takes Debian from."""
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(path.read_text() for path in sources if path.is_file())
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found = re.search(r"https?://\S+/debian/?(?=\s|$)", "\n".join(lines))
    if not found:
        raise Failed("apt has no source of Debian's packages")
    return found[0]


def other_release(directory: Path) -> Path:
    """A configuration of apt for the engine's release, beside the machine's own."""
    (directory / "lists" / "partial").mkdir(parents=True)
    (directory / "cache" / "archives" / "partial").mkdir(parents=True)
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources = directory / "sources.list"
    sources.write_text(f"deb [signed-by={keys}] {mirror()} {ENGINE_SUITE} main\n")
    configuration = directory / "apt.conf"
    configuration.write_text(
        f'Dir::State::lists "{directory}/lists";\nDir::Cache "{directory}/cache";\n'
        f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "-";\nAPT::Sandbox::User "root";\n'
    )
    return configuration


def environment_of(files: Path, work: Path) -> dict[str, str]:
    """For the daemon and its commands: its programs first, its socket, plugins of its own."""
    plugins = work / "config" / "cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    for plugin in (files / "usr/libexec/docker/cli-plugins").iterdir():
        (plugins / plugin.name).unlink(missing_ok=True)
        (plugins / plugin.name).symlink_to(plugin)
    (libraries,) = (files / "usr/lib").glob("*-linux-gnu")
    return {
        **os.environ,
        "PATH": f"{files}/usr/bin:{files}/usr/sbin:{os.environ['PATH']}:/usr/sbin:/sbin",
        "LD_LIBRARY_PATH": str(libraries),
        "XTABLES_LIBDIR": str(libraries / "xtables"),
        "DOCKER_HOST": f"unix://{work}/run/docker.sock",
        "DOCKER_CONFIG": str(work / "config"),
    }


@contextlib.contextmanager
def network_as_before(files: Path, environment: dict[str, str]) -> Iterator[None]:
    """Puts back the packet filter, forwarding and the bridge."""
    tables = run(files / "usr/sbin/iptables-save", environment=environment)
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    before = forward.read_text()
    try:
        yield
    finally:
        run(files / "usr/sbin/iptables-restore", environment=environment, stdin=tables)
        succeeds("ip", "link", "delete", "docker0")
        forward.write_text(before)


@contextlib.contextmanager
def daemon(files: Path, work: Path, environment: dict[str, str]) -> Iterator[None]:
    """The daemon, from when it answers until it has ended."""
    (work / "run").mkdir(exist_ok=True)
    (work / "log").mkdir(exist_ok=True)
    command = [
        *("dockerd", "--host", environment["DOCKER_HOST"], "--group", "root"),
        *("--data-root", work / "data", "--exec-root", work / "run/exec", "--pidfile", work / "run/docker.pid"),
        *("--userland-proxy-path", files / "usr/sbin/docker-proxy"),
    ]
    with (work / "log" / "dockerd").open("w") as log:
        process = subprocess.Popen(list(map(str, command)), env=environment, stdout=log, stderr=log)
    try:
        if not waits_for(lambda: succeeds("docker", "info", environment=environment), 60):
            raise Failed(f"the engine did not start: see {work}/log/dockerd")
        yield
    finally:
        process.terminate()
        process.wait(timeout=180)
