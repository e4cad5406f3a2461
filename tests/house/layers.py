"""The order of the rooms: each may import those above it in this list, never one below.

Rooms on one line may not import each other. A prefix stands for all that lies below it, the longest one counts.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "client", ROOT / "service")

LAYERS: tuple[tuple[str, ...], ...] = (
    ("rushes.errors", "rushes._paths", "rushes._files", "rushes._platform", "rushes._terminal"),
    ("rushes._compat",),
    ("rushes.wire",),
    ("rushes.families",),
    ("rushes.prompts", "rushes.checkpoints"),
    ("rushes.submission",),
    ("rushes.client",),
    ("rushes.training",),
    ("rushes",),  # the public names: everything above them is what they are made of
    ("rushes.watch", "rushes.trackers"),
    ("rushes.integrations",),
    ("rushes.cli",),
    ("rushes.__main__",),
    ("rushes_service", "rushes_service.settings"),
    ("rushes_service.storage", "rushes_service.runtime", "rushes_service.media"),
    ("rushes_service.lora",),
    ("rushes_service.models.rooms", "rushes_service.models.inputs", "rushes_service.models.tiny_parts"),
    ("rushes_service.models.euler",),
    ("rushes_service.models.loading",),
    ("rushes_service.models.conditioning", "rushes_service.models.encoder_store"),
    ("rushes_service.models.encoder",),
    ("rushes_service.models.encoders", "rushes_service.models.llm", "rushes_service.models.vae"),
    ("rushes_service.models.base",),
    ("rushes_service.models.batching",),
    ("rushes_service.models.pictures", "rushes_service.models.own_loop"),
    (
        "rushes_service.models.wan",
        "rushes_service.models.hunyuan",
        "rushes_service.models.hunyuan15",
        "rushes_service.models.flux",
        "rushes_service.models.flux2",
        "rushes_service.models.qwen",
        "rushes_service.models.zimage",
        "rushes_service.models.krea2",
    ),
    (
        "rushes_service.models.framepack",
        "rushes_service.models.wan22",
        "rushes_service.models.generic",
        "rushes_service.models.kandinsky5",
    ),  # HunyuanVideo and Wan with other transformers
    ("rushes_service.models",),
    ("rushes_service.engine", "rushes_service.inspection"),
    ("rushes_service.queue", "rushes_service.catalogue", "rushes_service.scores"),
    ("rushes_service.ranking",),
    ("rushes_service.sheets",),
    ("rushes_service.processes",),
    ("rushes_service.worker", "rushes_service.api.http", "rushes_service.doctor"),
    ("rushes_service.api.background", "rushes_service.api.schemas"),
    ("rushes_service.api.context",),
    ("rushes_service.api.services",),
    ("rushes_service.api.routes",),
    ("rushes_service.api",),
    ("rushes_service.demo",),
    ("rushes_service.cli",),
)

MOST_MODULES = 13
"""A folder with more is split into rooms."""

RANKS = {prefix: (rank, prefix) for rank, layer in enumerate(LAYERS) for prefix in layer}


def modules(packages: Sequence[Path] = PACKAGES) -> dict[str, Path]:
    """Every module of the packages in some directories, and its file."""
    found = {}
    for package in packages:
        for file in package.rglob("*.py"):
            name = ".".join(file.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
            found[name] = file
    return found


def imported(file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Modules of ours that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


def room(module: str) -> tuple[int, str]:
    """Rank and prefix of the room of a module."""
    name = module
    while name not in RANKS:
        name, dot, _ = name.rpartition(".")
        if not dot:
            raise LookupError(f"{module} lies in no room of LAYERS")
    return RANKS[name]


def arrows_up(known: Mapping[str, Path]) -> list[str]:
    """Imports of a room that lies higher, or beside the importing one."""
    found = []
    for module, file in sorted(known.items()):
        rank, own = room(module)
        for target in imported(file, known):
            there, other = room(target)
            if there > rank or (there == rank and other != own):
                found.append(f"{module} imports {target}")
    return found


def circles(known: Mapping[str, Path]) -> list[list[str]]:
    """Modules that import each other, directly or over others (Tarjan's strongly connected components)."""
    edges = {module: set(imported(file, known)) - {module} for module, file in known.items()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in edges[module]:
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            circle = []
            while not circle or circle[-1] != module:
                circle.append(stack.pop())
            if len(circle) > 1:
                found.append(sorted(circle))

    for module in edges:
        if module not in index:
            visit(module)
    return found


def crowded(known: Mapping[str, Path], most: int = MOST_MODULES) -> list[str]:
    """Folders that hold too many modules for one look."""
    folders = Counter(file.parent for file in known.values() if file.name != "__init__.py")
    return [f"{folder} holds {count} modules" for folder, count in folders.items() if count > most]


def faults(packages: Sequence[Path] = PACKAGES) -> list[str]:
    """Everything that is wrong with the order of the rooms, a line each."""
    known = modules(packages)
    return [*arrows_up(known), *(f"circle: {' -> '.join(circle)}" for circle in circles(known)), *crowded(known)]


if __name__ == "__main__":
    sys.exit("\n".join(faults()) or None)
