"""Run a trainer's own script, unmodified, with its trainer class exchanged for one that samples with Rushes."""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rushes.errors import ConfigError, RushesError
from rushes.training.flags import SAMPLING_FLAGS

OURS = (
    "--lora_weight",
    "--lora_multiplier",
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
    relies on.
    """

    name: str
    module: str
    base: str
    needs: tuple[str, ...]
    tried: str
    mixin: type

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
        check_script(trainer, script, base)
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


def check_script(trainer: Trainer, script: Path, base: type) -> None:
    """See that a script trains with a subclass of `base`: else it would sample by itself, unnoticed.

    Raises:
        ConfigError: it does not.
    """
    names: dict[str, Any] = runpy.run_path(str(script), run_name=PEEK)
    if callable(main := names.get("main")):  # some scripts only import it
        names = main.__globals__
    trainers = [
        value
        for value in names.values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == names["__name__"]
    ]
    # One that brings a loop of its own would never come by where we step in.
    if not trainers or any(vars(kind).get("train") for kind in trainers if kind is not base):
        raise ConfigError(
            f"{script.name} does not train with {trainer.name}'s {trainer.base}; its LoRA training scripts do "
            "(their names end in train_network.py)"
        )


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
