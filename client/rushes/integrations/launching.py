"""Run a trainer's own script, unmodified, with its trainer class exchanged for one that samples with Rushes."""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from rushes.errors import ConfigError, RushesError
from rushes.training.flags import SAMPLING_FLAGS

OURS = (
    "--lora_weight",
    "--lora_multiplier",
    "--lora_expert",
    "--allow_partial_lora",
    "--allow_other_family",
    "--tokenizer1",
    "--tokenizer2",
)
"""Flags that trainers have not, beside those that begin with `--rushes_`."""

LAUNCHER_FLAGS: dict[str, dict[str, Any]] = {
    "--rushes_architecture": {
        "metavar": "A",
        "help": "model family, where the trainer's own flags do not tell (see docs/integrations)",
    },
    "--rushes_wait": {
        "metavar": "S",
        "type": float,
        "help": "at the end, wait so many seconds for samples that a tracker is to show (default: 300)",
    },
}

PEEK = "__rushes_peek__"
"""Name under which a script is run to see what it defines; its `__main__` part does not run."""

PREFIX = "Sampled"
"""Begins the name of a trainer's class once its sampling is exchanged."""


@dataclass(frozen=True)
class Trainer:
    """A trainer that can be launched.

    `base` is the class in `module` whose subclasses train; `needs` are its methods that `mixin` takes the place of or
    relies on. `fine_tuners` are classes by name that bring a training loop of their own, and the mixin for each.
    """

    name: str
    module: str
    base: str
    needs: tuple[str, ...]
    tried: str
    mixin: type
    scripts: str
    fine_tuners: Mapping[str, type] = field(default_factory=dict[str, type])

    def base_class(self) -> type:
        """The trainer's own base class.

        Raises:
            ConfigError: it is not installed here, or is not as this version of Rushes knows it.
        """
        try:
            module = importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{self.name} cannot be imported: {error}; run this in the Python environment that you train in"
            ) from error
        base = getattr(module, self.base, None)
        missing = [name for name in self.needs if not hasattr(base, name)] if isinstance(base, type) else [self.base]
        if missing or not isinstance(base, type):
            raise ConfigError(
                f"this {self.name} ({module.__file__}) has no {', '.join(missing)}; Rushes was tried with {self.tried}"
            )
        return base


def launch(trainer: Trainer, argv: Sequence[str]) -> int:
    """Run `<script> <its arguments>`, with sampling moved out of it.

    Returns:
        0, or 1 for what is wrong with the flags or the prompt file, which is printed. What the trainer itself raises
        is left alone.
    """
    try:
        if not argv or argv[0].startswith("-"):
            raise ConfigError(f"give the training script of {trainer.name}, then its own arguments")
        own, theirs = split_arguments(argv[1:])
        script = find_script(argv[0])
        sys.argv = [str(script), *theirs]
        sys.path.insert(0, str(script.parent))  # as `python script.py` does
        base = trainer.base_class()
        names = defined_by(script)
        if loops := own_loops(trainer, script, names, base):
            fine_tune(trainer, script, loops, str(names["__name__"]), vars(own))
        else:
            exchange(base, trainer.mixin, vars(own))
            runpy.run_path(str(script), run_name="__main__")
    except RushesError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def split_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our flags, and those that are the trainer's."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("rushes", "sampling outside this process; the trainer's own flags follow")
    for flag, options in {**SAMPLING_FLAGS, **LAUNCHER_FLAGS}.items():
        if flag.startswith("--rushes_") or flag in OURS:
            group.add_argument(flag, **options)
    if "-h" in argv or "--help" in argv:
        sys.stdout.write(parser.format_help() + "\n")
    return parser.parse_known_args(argv)


def find_script(name: str) -> Path:
    """A script by its path, or by the name of its module.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path.absolute()
    try:
        spec = importlib.util.find_spec(name) if path.suffix != ".py" else None
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise ConfigError(f"{name}: there is no such training script")
    return Path(spec.origin)


def defined_by(script: Path) -> dict[str, Any]:
    """What a script defines, or the module that it takes its `main` from: some scripts only import one."""
    names: dict[str, Any] = runpy.run_path(str(script), run_name=PEEK)
    return main.__globals__ if callable(main := names.get("main")) else names


def own_loops(trainer: Trainer, script: Path, names: Mapping[str, Any], base: type) -> list[str]:
    """Classes of a script that train with a loop of their own; none for a script whose trainer uses its base's.

    Raises:
        ConfigError: it trains with nothing that is known. It would sample by itself, unnoticed.
    """
    here = [value for value in names.values() if isinstance(value, type) and value.__module__ == names["__name__"]]
    known = trainer.fine_tuners
    trainers = [kind for kind in here if issubclass(kind, base) or kind.__name__ in known]
    loops = [kind.__name__ for kind in trainers if "train" in vars(kind) and kind is not base]
    if not trainers or not all(name in known for name in loops):
        raise ConfigError(f"{script.name} does not train with {trainer.name}'s {trainer.base}; {trainer.scripts}")
    return loops


def fine_tune(trainer: Trainer, script: Path, loops: Sequence[str], home: str, flags: Mapping[str, Any]) -> None:
    """Run a script whose trainer has a loop of its own.

    Such a class is made anew whenever its script is run. So the script is imported instead, under the name of its
    file, and its `main` called.

    Args:
        loops: names of the classes.
        home: module that they are defined in; `PEEK` is the script itself.
        flags: ours, from the command line.
    """
    module = imported(script) if home == PEEK else importlib.import_module(home)
    for name in loops:
        exchange(getattr(module, name), trainer.fine_tuners[name], flags)
    module.main()


def imported(script: Path) -> ModuleType:
    """A script as a module, which processes that load data can import as well.

    Raises:
        ConfigError: another module has its name.
    """
    module = importlib.import_module(script.stem)
    if module.__file__ is None or Path(module.__file__).resolve() != script.resolve():
        raise ConfigError(f"{script}: another module is called {script.stem} ({module.__file__}); rename one of them")
    return module


def exchange(base: type, mixin: type, flags: Mapping[str, Any]) -> None:
    """Put `mixin` in front of every subclass of `base` that is trained with from now on.

    Args:
        flags: ours, from the command line; trainers get them as `rushes_flags`.
    """
    original = base.__dict__["train"]

    @functools.wraps(original)
    def train(self: Any, args: argparse.Namespace) -> Any:
        if isinstance(self, mixin):
            return original(self, args)
        kind = cast("type[Any]", type(self))
        self.__class__ = type(f"{PREFIX}{kind.__name__}", (mixin, kind), {"rushes_flags": flags})
        return self.train(args)

    base.train = train  # pyright: ignore[reportAttributeAccessIssue]


def add_flags(args: argparse.Namespace, flags: Mapping[str, Any]) -> None:
    """Add our flags to a trainer's; where a configuration file has set one, the command line wins."""
    for name, value in flags.items():
        setattr(args, name, value)
