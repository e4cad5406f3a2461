"""Show the content of a LoRA file: format, family, ranks, modules, the trainer's metadata.

rushes inspect out/lora-000100.safetensors
rushes inspect out/lora-000100.safetensors --architecture wan2.1-t2v
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rushes._paths import absolute
from rushes.errors import ConfigError
from rushes.families.table import ARCHITECTURES, architecture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes inspect`."""
    parser.add_argument("file", metavar="FILE", help="a .safetensors file, or a PEFT adapter's directory")
    parser.add_argument(
        "--architecture", metavar="A", help=f"also check the module names: {', '.join(sorted(ARCHITECTURES))}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Show the file; 1 if sampling would refuse it: its kind is not read, NaN, halves apart, another family."""
    if args.architecture and architecture(args.architecture).own_defaults:
        raise ConfigError(
            f"--architecture {args.architecture}: which modules there are depends on the pipeline; leave it out"
        )
    place = absolute(args.file)
    from rushes_service.inspection.report import inspect_file, lines  # torch takes a second to load

    found = inspect_file(place)
    if args.architecture:
        from rushes_service.inspection.outline import other_family_of, unmatched_modules

        found.refused = found.refused or other_family_of(args.architecture, place)
        found.unmatched = unmatched_modules(args.architecture, place)
        found.matched = found.modules - len(found.unmatched)
    if args.json:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(found)))
    return 1 if found.broken else 0
