"""What `pip install rushes[api]` brings is all that the API and its commands import."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]

ROOMS = ("api", "catalogue", "sheets", "media", "ranking", "doctor")
"""Of the service; what the commands of an installation without workers are made of."""

IMPORTS = """
import importlib, importlib.abc, pkgutil, sys
foreign = set(sys.argv[1].split(","))
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in foreign:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
failed = {}
for room in sys.argv[2].split(","):
    package = importlib.import_module(f"rushes_service.{room}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            failed[module.name] = error.name
print(failed)
"""


def closure(requirements: list[str]) -> set[str]:
    """Names of the distributions that these requirements bring, as far as they are installed."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        if name in found or "extra ==" in requirement:
            continue
        try:
            waiting += importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
    return found


def test_everything_that_the_api_imports_is_installed_with_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = closure([*project["dependencies"], *project["optional-dependencies"]["api"]]) | {"rushes"}
    of_module = importlib.metadata.packages_distributions()
    foreign = {
        module
        for module, names in of_module.items()
        if not brought & {name.lower().replace("_", "-") for name in names} and module.isidentifier()
    }
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, ",".join(sorted(foreign)), ",".join(ROOMS)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "{}"
