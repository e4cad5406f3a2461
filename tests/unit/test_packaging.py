"""What is installed, what imports what, and what `make` pins."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from rushes.cli import main as cli
from rushes_service.doctor.software import OLDEST, release

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client" / "rushes"
SERVICE = ROOT / "service" / "rushes_service"

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TORCH_ROOMS = ("engine/", "models/", "lora/", "inspection/", "runtime/", "demo/", "scores/")
HEAVY = ("torch", "diffusers", "transformers", "fastapi", "numpy", "rushes_service")
ADDRESS = re.compile(r"https?://|--index-url|--extra-index-url|--find-links")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements() -> list[Requirement]:
    """Every requirement of every extra, our own extras left out."""
    extras = project()["optional-dependencies"].values()
    lines = [*project()["dependencies"], *(line for extra in extras for line in extra)]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != "rushes"]


def pins(python: str) -> dict[str, Version]:
    """Pinned versions on one Python version, by normalised name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    applying = [pin for pin in parsed if pin.marker is None or pin.marker.evaluate({"python_version": python})]
    names = [normal(pin.name) for pin in applying]
    assert len(names) == len(set(names)), f"pinned twice on Python {python}"
    return {normal(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in applying}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules that a syntax tree imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def modules_loaded_by(statement: str) -> set[str]:
    """Names of the heavy modules that `statement` loads, in a process of its own."""
    program = f"import sys\n{statement}\nprint(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_client_loads_nothing_heavy() -> None:
    assert modules_loaded_by("import rushes, rushes.cli.main") == set()


def test_the_api_loads_neither_torch_nor_numpy() -> None:
    assert modules_loaded_by("import rushes_service.cli.api") == {"fastapi", "rushes_service"}


@pytest.mark.parametrize("command", sorted(cli.HEAVY))
def test_a_command_shows_its_help_without_torch(command: str) -> None:
    program = f"""
import sys
from rushes.cli.main import main
try:
    main([{command!r}, "--help"])
except SystemExit:
    sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "it imports torch"
    assert f"usage: rushes {command}" in done.stdout


@pytest.mark.parametrize(("command", "package"), [("api", "sse_starlette"), ("worker", "torch")])
def test_a_command_whose_package_is_not_installed_says_what_to_install(command: str, package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; from rushes.cli.main import main; sys.exit(main([{command!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"needs the package {package}" in done.stderr
    assert "pip install 'rushes[service]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_torch_is_imported_only_in_the_rooms_that_may() -> None:
    allowed = {
        SERVICE / "processes" / "gpus.py",
        SERVICE / "cli" / "worker.py",
    }  # inside functions, in processes of their own
    for file in SERVICE.rglob("*.py"):
        inside = file.relative_to(SERVICE).as_posix().startswith(TORCH_ROOMS)
        heavy = {name.split(".")[0] for name in imports(ast.parse(file.read_text()))} & {"torch", "diffusers"}
        assert inside or file in allowed or not heavy, f"{file.relative_to(ROOT)} imports {heavy}"


def test_the_client_never_imports_the_service() -> None:
    for file in CLIENT.rglob("*.py"):
        for name in imports(ast.parse(file.read_text())):
            assert name.split(".")[0] not in {"rushes_service", "fastapi", "diffusers"}, file


def test_the_wheel_holds_both_packages_with_their_scripts_and_pages(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    packaged = [path for folder in (CLIENT, SERVICE) for path in folder.rglob("*") if path.is_file()]
    expected = {path.relative_to(path.parents[len(path.relative_to(ROOT).parts) - 2]).as_posix() for path in packaged}
    assert {name for name in expected if "__pycache__" not in name} <= names
    assert {"rushes/py.typed", "rushes_service/web/index.html"} <= names
    assert any(name.endswith(".lua") for name in names)
    assert not any(name.startswith("tests/") for name in names)
    base = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert {Requirement(line.split(": ", 1)[1]).name for line in base} == {"redis", "pydantic", "tomli"}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_a_tested_pin_that_satisfies_it(python: str) -> None:
    pinned = pins(python)
    for requirement in requirements():
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            version = pinned.get(normal(requirement.name))
            assert version is not None, f"{requirement.name} has no pin on Python {python}"
            assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def test_nothing_installs_from_a_named_index() -> None:
    for name in ("Makefile", "constraints.txt", "pyproject.toml", ".ci/run", *docker_files()):
        assert not ADDRESS.search((ROOT / name).read_text()), name


def docker_files() -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in (ROOT / "docker").glob("*.Dockerfile")]


def test_the_doctor_asks_for_what_the_package_asks_for() -> None:
    lowest = {
        normal(requirement.name): bound.version
        for requirement in requirements()
        for bound in requirement.specifier
        if bound.operator == ">="
    }
    for name, oldest in OLDEST.items():
        assert release(lowest[name])[: len(oldest)] == oldest, name


def test_versions_agree() -> None:
    version = project()["version"]
    assert f'__version__ = "{version}"' in (CLIENT / "__init__.py").read_text()


def test_make_lists_its_targets_by_default() -> None:
    done = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True)
    assert {"demo", "test", "check", "bench"} <= {
        line.split()[1] for line in done.stdout.splitlines() if "make " in line
    }


def test_the_ci_script_is_runnable_and_strict() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
