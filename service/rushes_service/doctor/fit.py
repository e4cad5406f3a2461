"""What a base model will take of a GPU, told from the headers of its files: nothing is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rushes._paths import absolute
from rushes.errors import ModelError
from rushes.families.spec import ModelFile
from rushes.families.table import ARCHITECTURES
from rushes_service.doctor.host_memory import check_host_memory, in_block, machine_memory
from rushes_service.doctor.report import Finding, fail, gib, ok, warn
from rushes_service.models.loading.files.headers import SAFETENSORS, Header, read_header
from rushes_service.models.loading.files.kinds import check_file_kind, described
from rushes_service.models.loading.files.quant_markers import without_quant_markers
from rushes_service.models.loading.files.quantisation import check_quantisation
from rushes_service.models.loading.files.variants import unread_in

WORKING_BYTES = 3 * 2**30
"""Of a GPU, for what is computed beside the weights (a clip of 480p takes about as much) and for CUDA itself."""

DECODER = "vae"
FLOAT32_DECODERS = ("wan", "flux", "qwen", "z-image", "krea2")
"""Beginnings of families whose VAE computes in float32; the others' does in float16."""

BLOCK_SHARE = 0.1
"""Of a transformer's weights on the GPU while its blocks are offloaded: two of them, and what is in no block."""


@dataclass(frozen=True)
class Part:
    """One part's weights. `numbers` counts them, `in_blocks` those in blocks, `dtypes` says what they are stored in."""

    name: str
    numbers: int
    in_blocks: int
    dtypes: tuple[str, ...]

    @property
    def stored(self) -> str:
        """Precisions for people, the commonest first."""
        return ", ".join(self.dtypes)


def check_files(
    architecture: str, files: Mapping[str, str], model: str | None, variant: str | None = None
) -> Iterator[Finding]:
    """Each file by its header, and what all together take.

    Args:
        files: paths by flag, without dashes.
        model: a diffusers directory for the parts that no file gives.
        variant: the one of its weights that is asked for.
    """
    parts: dict[str, Part] = {}
    for file in ARCHITECTURES[architecture].files:
        if file.kinds and (path := files.get(file.flag)):
            try:
                header = read_header(absolute(path))
                check_file_kind(header, file.kinds, f"--{file.flag}")
                check_quantisation(header)
            except ModelError as error:
                yield fail(f"--{file.flag}", str(error), "give the right file; docs/models.md says which")
                continue
            parts[file.component] = part_of(file.component, [header])
            yield ok(f"--{file.flag}", f"{described(header)}, {gib(header.bytes)} ({parts[file.component].stored})")
    yield from check_weights(architecture, files)
    known = {*(file.flag for file in ARCHITECTURES[architecture].files), *ARCHITECTURES[architecture].weights}
    for flag in sorted(set(files) - known):
        yield warn(f"--{flag}", f"{architecture} has no use for it", "leave it out")
    if model and (directory := absolute(model)).is_dir():
        parts = {**directory_parts(directory, variant), **parts}
    if "transformer" in parts or "transformer_2" in parts:
        yield from needed(architecture, parts)


def check_weights(architecture: str, files: Mapping[str, str]) -> Iterator[Finding]:
    """Files of a family that takes any model's; see `ArchitectureSpec.weights`."""
    for flag in ARCHITECTURES[architecture].weights:
        if path := files.get(flag):
            try:
                header = read_header(absolute(path))
                check_quantisation(header)
            except ModelError as error:
                yield fail(f"--{flag}", str(error), "give the right file; docs/models.md says which")
                continue
            yield ok(f"--{flag}", f"{gib(header.bytes)} ({part_of(flag, [header]).stored})")


def part_of(name: str, headers: Iterable[Header]) -> Part:
    """What some files of one part hold."""
    numbers: Counter[str] = Counter()
    in_blocks = 0
    for header in headers:
        for key in without_quant_markers(header.entries):
            entry = header.entries[key]
            numbers[entry.dtype] += entry.count
            in_blocks += entry.count if in_block(key) else 0
    return Part(name, sum(numbers.values()), in_blocks, tuple(dtype for dtype, _ in numbers.most_common()))


def directory_parts(directory: Path, variant: str | None = None) -> dict[str, Part]:
    """The parts of a diffusers directory that have weights in safetensors files that can be read."""
    parts = {}
    for component in sorted(path for path in directory.iterdir() if path.is_dir()):
        others = unread_in(component, variant)
        files = [file for file in component.iterdir() if file.suffix.lower() in SAFETENSORS and file.name not in others]
        try:
            headers = [read_header(file) for file in files]
        except ModelError:
            continue  # what is wrong with it is said where the directory's files are checked
        unique = {header.files: header for header in headers}
        if unique:
            parts[component.name] = part_of(component.name, unique.values())
    return parts


def needed(architecture: str, parts: Mapping[str, Part]) -> Iterator[Finding]:
    """What is on the GPU at once, what helps if that is too much, and what the worker needs of the machine."""
    transformers = [part for name, part in parts.items() if name.startswith("transformer")]
    transformer = max(part.numbers for part in transformers)
    decoder = parts[DECODER].numbers * decoder_bytes(architecture) if DECODER in parts else 0
    rows = {
        "as trained (bfloat16)": 2 * transformer,
        "--fp8_base": transformer,
        "--offload": int(2 * transformer * BLOCK_SHARE),
    }
    peaks = [f"{gib(weights + decoder + WORKING_BYTES)} {name}" for name, weights in rows.items()]
    advice = "an estimate: long and large clips take more; a sample that runs out of memory is tried again in less"
    yield ok("memory to denoise", f"about {'; '.join(peaks)} ({advice})")
    encoders = {name: part for name, part in parts.items() if "encoder" in name}
    if encoders:
        largest = max(encoders.values(), key=lambda part: part.numbers)
        found = f"{gib(2 * largest.numbers)} for {largest.name}, only while a new prompt is encoded, then cached"
        yield ok("memory to encode", found)
    yield check_host_memory(
        max(part.in_blocks for part in transformers),
        experts=len(transformers) > 1,
        machine=machine_memory(),
    )


def decoder_bytes(architecture: str) -> int:
    """Bytes of a number in the family's VAE."""
    return 4 if architecture.startswith(FLOAT32_DECODERS) else 2


def file_flags() -> tuple[ModelFile, ...]:
    """Every file flag of every family, once."""
    flags: dict[str, ModelFile] = {}
    for spec in ARCHITECTURES.values():
        for file in spec.files:
            if file.kinds:
                flags.setdefault(file.flag, file)
    return tuple(flags.values())
