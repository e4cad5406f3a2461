"""`rushes doctor`: check this installation and say how to repair it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rushes.errors import ConfigError
from rushes.families.table import ARCHITECTURES
from rushes_service.doctor import files, fit, redis_server, software
from rushes_service.doctor.report import Finding, Mark
from rushes_service.settings import Settings, load_settings

COLOURS = {Mark.OK: "32", Mark.WARN: "33", Mark.FAIL: "31"}
"""ANSI: green, yellow, red."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes doctor`."""
    parser.add_argument(
        "--model", "--rushes_model", metavar="DIR", help="also check this diffusers directory (or hub id)"
    )
    parser.add_argument("--architecture", metavar="NAME", help="also check that this model family is served")
    for file in fit.file_flags():
        help_text = "also check this file, and what the model takes of a GPU (needs --architecture)"
        parser.add_argument(f"--{file.flag}", metavar="FILE", help=help_text)
    parser.add_argument(
        "--variant", metavar="NAME", help="the variant of weights in --model that samples are made with"
    )
    parser.add_argument(
        "--output_dir", "--output-dir", type=Path, default=Path(), help="where samples will go (default: here)"
    )
    parser.add_argument("--redis-url", help="the Redis to look at (default: RUSHES_REDIS_URL)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """0 if samples can be made, 1 if anything failed."""
    unasked = [file.flag for file in fit.file_flags() if getattr(args, file.flag)]
    if unasked and not args.architecture:
        raise ConfigError(f"--{unasked[0]} is checked against a model family: name it with --architecture")
    settings = load_settings(redis_url=args.redis_url)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")  # https://no-color.org
    findings = []
    for finding in examine(args, settings):
        findings.append(finding)
        if not args.json:
            print(line(finding, colour=colour), flush=True)
    task = "serve; samples are made by workers elsewhere" if software.api_alone() else "sample"
    failed = sum(finding.mark is Mark.FAIL for finding in findings)
    if args.json:
        print(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print(f"\n{failed} thing{'s' * (failed != 1)} to mend" if failed else f"\nready to {task}")
    return 1 if failed else 0


def examine(args: argparse.Namespace, settings: Settings) -> Iterator[Finding]:
    """Every finding, cheap ones first."""
    yield software.check_python()
    yield from software.check_packages()
    yield from redis_server.check_redis(settings.redis_url)
    yield from files.check_directory("cache directory", settings.cache_dir)
    api_alone = software.api_alone()
    if not api_alone:
        yield from files.check_directory("output directory", args.output_dir.absolute())
    yield software.check_ffmpeg()
    if args.architecture:
        yield files.check_architecture(args.architecture)
    if args.model:
        yield from files.check_model(args.model, args.variant)
    if args.architecture in ARCHITECTURES:
        given = {file.flag: path for file in fit.file_flags() if (path := getattr(args, file.flag))}
        yield from fit.check_files(args.architecture, given, args.model, args.variant)
    if not api_alone:
        yield from software.check_gpus()


def line(finding: Finding, *, colour: bool) -> str:
    """One finding for a terminal, the advice on a line of its own."""
    mark = f"{finding.mark.value:<4}"
    if colour:
        mark = f"\x1b[{COLOURS[finding.mark]}m{mark}\x1b[0m"
    text = f"{mark}  {finding.name}: {finding.found}"
    return f"{text}\n      -> {finding.advice}" if finding.advice else text
