"""Show the content of a LoRA file: format, family, ranks, modules, the trainer's metadata.

rushes inspect out/lora-000100.safetensors
rushes inspect out/lora-000100.safetensors --architecture wan2.1-t2v
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rushes._paths import absolute
from rushes.checkpoints.snapshots import read_header
from rushes.families.table import ARCHITECTURES, architecture
from rushes_service.inspection.report import inspect_file, lines

HELP = "show what is in a LoRA file: format, family, ranks, where it acts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes inspect`."""
    parser.add_argument("file", metavar="FILE", help="a .safetensors file, or a PEFT adapter's directory")
    parser.add_argument(
        "--architecture", metavar="A", help=f"also check the module names: {', '.join(sorted(ARCHITECTURES))}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Show the file; 1 if it holds NaN, infinity or halves apart, or names that the family does not have."""
    if args.architecture:
        architecture(args.architecture)
    place = absolute(args.file)
    found = inspect_file(place)
    if args.architecture:
        from rushes_service.inspection.outline import unmatched_modules

        keys = read_header(place / "adapter_model.safetensors" if place.is_dir() else place)
        found.unmatched = unmatched_modules(args.architecture, keys)
        found.matched = found.modules - len(found.unmatched)
    if args.json:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(found)))
    return 1 if found.non_finite or found.misfits or found.unmatched else 0
