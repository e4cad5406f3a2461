"""The `rushes` command. Light subcommands live in `rushes.cli`, heavy ones are imported only when they are run."""

from __future__ import annotations

import argparse
import importlib
import io
import keyword
import logging
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

import rushes
from rushes._platform import NO_SERVICE, WINDOWS
from rushes._terminal import printable, printable_lines
from rushes.errors import ConfigError, RushesError

DESCRIPTION = """\
Sample every checkpoint of a LoRA training run on another GPU, while training goes on.

start here:
  rushes demo                 see it work on this machine: no GPU, no download
  rushes up                   start everything on this machine
  rushes doctor               what is missing or wrong, and how to mend it
"""

EPILOG = """\
environment:
  RUSHES_REDIS_URL            Redis that all parts share (default: redis://127.0.0.1:6379/0)
  RUSHES_TOKEN                bearer token of the REST API; all settings are in docs/configuration.md
"""

LIGHT = {
    "prompts": "check a prompt file and show what it asks for",
    "submit": "sample a checkpoint, or the base model, with a prompt file",
    "sweep": "sample one checkpoint at several strengths and seeds, side by side",
    "watch": "sample every new checkpoint that a trainer writes into a directory",
    "track": "show results in TensorBoard, W&B, Trackio or MLflow, each at its step",
    "jobs": "list, show, cancel and retry samples",
    "spool": "look at hand-offs that Redis has not accepted, and hand them over",
    "workers": "see what each worker does; pause, resume or drain one",
    "lanes": "see which base models samples wait for, and for how long",
    "models": "list the model families: what each needs, ignores and takes by default",
}
HEAVY = {
    "up": "start Redis, the API and a worker per device; restart what dies; stop all with Ctrl-C",
    "worker": "make samples on one device until stopped",
    "api": "serve the REST API and the page",
    "rank": "print the blind ranking of a run's checkpoints, or export its votes",
    "export": "write a run as a folder of pages that needs no server",
    "grid": "draw a run as a labelled contact sheet, a picture or a film",
    "import": "bring samples that lie on disk back into the gallery",
    "inspect": "show what is in a LoRA file: format, family, ranks, where it acts",
    "cache": "look at cached embeddings, or delete them",
    "doctor": "check Redis, GPU, ffmpeg, models and versions; say how to mend what is wrong",
    "demo": "train a LoRA for a tiny model and sample its checkpoints, all on this machine",
}

log = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a prompt may hold what the terminal cannot show
    try:
        args = parse(arguments)
        code = args.run(args)
        sys.stdout.flush()  # here, where a disk that is full can be told of
        return code
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rushes"):
            raise
        print(f"rushes: {needs(error)}", file=sys.stderr)
        return EXIT_USAGE
    except RushesError as error:
        print(f"rushes: {printable_lines(str(error))}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader (`| head`) has gone
        end_output()
        return EXIT_FAILED
    except OSError as error:
        # Of files that no command has a sentence of its own for: a directory that may not be read, a full disk.
        log.info("where it happened:", exc_info=True)
        place = f"{error.filename}: " if error.filename else ""
        print(f"rushes: {printable(place)}{error.strerror or error}", file=sys.stderr)
        end_output()
        return EXIT_FAILED


def end_output() -> None:
    """Print what is not printed yet; what cannot be is dropped, or Python would complain once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; only the module of the named subcommand is imported."""
    parser = argparse.ArgumentParser(
        prog="rushes", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"rushes {rushes.__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens in the background")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    named = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in {**LIGHT, **HEAVY}.items():
        module = load(name) if name == named else None
        sub = commands.add_parser(
            name,
            help=summary,
            description=(module and module.__doc__) or summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if module is not None:
            module.add_arguments(sub)
            run: Callable[[argparse.Namespace], int] = module.run
            sub.set_defaults(run=run)
    args = parser.parse_args(arguments)
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    return args


def load(name: str) -> ModuleType:
    """The module of a subcommand.

    Raises:
        ConfigError: it belongs to the service, and this is Windows.
    """
    if WINDOWS and name not in LIGHT:
        raise ConfigError(f"rushes {name}: {NO_SERVICE}")
    package = "rushes.cli" if name in LIGHT else "rushes_service.cli"
    # A module cannot be called `import`.
    return importlib.import_module(f"{package}.{name}_" if keyword.iskeyword(name) else f"{package}.{name}")


def needs(error: ModuleNotFoundError) -> str:
    """What to say when a subcommand's package is not installed."""
    return f"this command needs the package {error.name}; install the service: pip install 'rushes[service]'"


def redis_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--redis-url`."""
    parser.add_argument(
        "--redis-url",
        "--rushes_url",
        dest="rushes_url",
        metavar="URL",
        help="Redis of the sampling service (default: RUSHES_REDIS_URL, else this machine)",
    )


if __name__ == "__main__":
    sys.exit(main())
