"""What only a GPU can show, most important first, in at most six minutes: one JSON line a check.

    make gpu [WHEELS=FOLDER] [ARGS="--only 'wan 14B'"]
    python benchmarks/gpu/run.py [--wheels FOLDER] [--budget SECONDS] [--only WORD] [--small] [--json FILE]

A bare machine with Python 3.12 and PyTorch 2.11 or later is enough: what else is needed comes as wheels from a folder,
and is named if it is missing. Without a GPU most checks run on the CPU, with `--small` also those of full size; what a
CPU cannot show says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = tuple(str(ROOT / part) for part in ("client", "service", "tests"))
BUDGET_S = 345.0
PRECISIONS = ("float32", "bfloat16")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="folder with the wheels that this machine lacks")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds; no check begins later")
    parser.add_argument("--only", default="", help="only checks with this in their name")
    parser.add_argument("--small", action="store_true", help="shrink the models of full size")
    parser.add_argument("--json", type=Path, help="also write the lines to this file")
    return parser.parse_args()


def prepare(wheels: Path | None, home: Path) -> None:
    """Make everything importable, here and in child processes, or say what is missing and end."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    paths = [str(HERE), *SOURCES]
    sys.path[:0] = paths
    import requirements

    if wheels is not None:
        paths.append(str(requirements.install(wheels, home)))
        sys.path.insert(len(SOURCES) + 1, paths[-1])
    if absent := requirements.missing():
        print(json.dumps({"check": "wheels", "ok": False, "missing": absent, "do": requirements.advice(absent)}))
        raise SystemExit(2)
    paths.append(str(stand_ins(home / "stand-ins")))
    sys.path.append(paths[-1])
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])


def stand_ins(home: Path) -> Path:
    """A folder for Python's path with what no check calls: a program of 68 MB, and the installed package's metadata."""
    home.mkdir()
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        (home / "imageio_ffmpeg.py").touch()
    try:
        importlib.metadata.version("rushes")
    except importlib.metadata.PackageNotFoundError:
        (home / "rushes-0.dist-info").mkdir()
        (home / "rushes-0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: rushes\nVersion: 0\n")
    return home


def main() -> None:
    """Run the checks."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="gpu-kit-") as home:
        prepare(options.wheels, Path(home))
        raise SystemExit(run(options, Path(home)))


def begin_references(home: Path, precision: str) -> subprocess.Popen[bytes]:
    """What the CPU makes of all families, by a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "references.py"), str(home), precision], stderr=subprocess.DEVNULL
    )


def run(options: argparse.Namespace, home: Path) -> int:
    """The checks, with references made beside them; 0 if none failed."""
    from checks import run_all
    from family_support import FAMILIES
    from kit import Kit, threads

    threads()
    kit = Kit(home, options.budget, options.only, options.small, options.json)
    wanted = any(kit.only in f"family {family} {precision}" for family in FAMILIES for precision in PRECISIONS)
    references = [begin_references(home, precision) for precision in PRECISIONS if wanted]
    try:
        run_all(kit)
    finally:
        for process in references:
            process.kill()
            process.wait()
        print(json.dumps(kit.summary()), flush=True)
    return 0 if kit.summary()["ok"] else 1


if __name__ == "__main__":
    main()
