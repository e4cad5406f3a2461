"""Check a prompt file and show what it asks for.

  rushes prompts prompts.txt
  rushes prompts prompts.toml --architecture wan2.1-t2v    with that family's defaults and rounding

A .txt file has one prompt a line, options behind it (`a red ball --w 480 --h 832 --f 81 --d 42`):

  --w --h   width and height in pixels        --l    classifier-free guidance scale
  --f       frames; 1 makes a picture         --n    negative prompt
  --d       seed, -1 for a random one         --g    embedded (distilled) guidance
  --s       denoising steps                   --fs   flow shift
  --i --ei  first and last image              --ci   control image, may be repeated
  --cn      control video or directory        --of   FramePack's one-frame options
  --m       LoRA multiplier, 0 for base model  --dl   drift limit: a control, to stay like the base model

A line that begins with # is a comment. A .toml file has [prompt] for defaults and a [[prompt.subset]] for each
prompt, a .json file a list of lines or objects; their keys are width, height, frame_count, seed and so on.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rushes._terminal import printable
from rushes.families.parameters import resolve
from rushes.families.prompt_options import OPTION_OF_FIELD
from rushes.families.spec import ArchitectureSpec
from rushes.families.table import ARCHITECTURES, architecture
from rushes.prompts.files import PromptLine, read_prompts
from rushes.submission.build import problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes prompts`."""
    parser.add_argument("file", help="prompt file: .txt, .toml or .json")
    parser.add_argument("--architecture", metavar="A", help=f"model family: {', '.join(sorted(ARCHITECTURES))}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--lenient", action="store_true", help="unknown or malformed options are warnings")


def run(args: argparse.Namespace) -> int:
    """Print every prompt; 1 if one cannot be sampled."""
    spec = architecture(args.architecture) if args.architecture else None
    entries = [describe(line, spec) for line in read_prompts(args.file, lenient=args.lenient)]
    if args.json:
        print(json.dumps(entries, ensure_ascii=False, indent=2))
    else:
        for entry in entries:
            show(entry)
        bad = sum("error" in entry for entry in entries)
        print(f"{len(entries)} prompts" + (f", {bad} of them wrong" if bad else ", all good"))
    return 1 if any("error" in entry for entry in entries) else 0


def describe(line: PromptLine, spec: ArchitectureSpec | None) -> dict[str, Any]:
    """One entry as plain data: index, line, the prompt's fields or its error, warnings."""
    entry: dict[str, Any] = {"index": line.index, "line": line.line}
    if line.prompt is None:
        return {**entry, "error": str(line.error), "text": line.text}
    warnings = list(line.warnings)
    if spec is None:
        fields = line.prompt.model_dump(mode="json", exclude_defaults=True)
        return {**entry, "prompt": line.prompt.prompt, **fields, "warnings": warnings}
    if error := problem(line, spec):
        return {**entry, "error": str(error), "text": line.text}
    parameters, noted = resolve(line.prompt, spec)
    fields = parameters.model_dump(mode="json", exclude_none=True, exclude={"left_to_model", *parameters.left_to_model})
    seed = spec.seed if line.prompt.seed is None else line.prompt.seed
    fields["seed"] = "random" if seed is None else seed
    return {**entry, **fields, "warnings": [*warnings, *noted]}


def show(entry: dict[str, Any]) -> None:
    """Print one entry for people."""
    if "error" in entry:
        print(f"{entry['index']:3d}  {printable(entry['text'])}", file=sys.stderr)
        print(f"     error: {printable(entry['error'])}", file=sys.stderr)
        return
    print(f"{entry['index']:3d}  {printable(entry['prompt']) or '(no text)'}")
    options = [
        f"{OPTION_OF_FIELD[name]} {entry[name]}" for name in OPTION_OF_FIELD if entry.get(name) not in (None, [])
    ]
    if options:
        print(f"     {printable('  '.join(options))}")
    for warning in entry["warnings"]:
        print(f"     warning: {printable(warning)}")
