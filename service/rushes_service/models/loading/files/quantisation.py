"""Which quantised files can be read: plain and scaled fp8. Every other kind is named and refused. Needs no torch.

Integers that stand for weights, or numbers whose scale is not applied, would load and make noise. So a file is checked
before anything of it is loaded, by precisions, names, the shapes of scales, and the markers that ComfyUI writes: a
tensor `comfy_quant` beside each layer, or `_quantization_metadata` in the header, both JSON with a `format`.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from rushes.errors import ModelError
from rushes_service.models.loading.files.headers import SAFETENSORS, Entry, Header, read_header
from rushes_service.models.loading.files.quant_markers import QUANT_MARKERS, SCALES
from rushes_service.models.loading.files.variants import unread_in

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
READ_FORMATS = frozenset({"float8_e4m3fn", "float8_e5m2"})
"""ComfyUI's names for the kinds that are read: fp8 with one scale a tensor, or one a row."""

HARMLESS = frozenset({"format", "full_precision_matrix_mult"})
"""Entries of ComfyUI's marker that change nothing about what the weights are."""

MARKER = "comfy_quant"
HEADER_MARKER = "_quantization_metadata"

PARAMETERS = frozenset({"weight", "bias", "modulation", "scale", "gamma", "beta"})
"""Last parts of names that are numbers a model computes with; buffers such as `position_ids` are integers by right."""

FOREIGN: Mapping[str, str] = {
    "qweight": "GPTQ, AWQ or SVDQuant",
    "scales": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "g_idx": "GPTQ",
    "wscales": "SVDQuant",
    "smooth_factor": "SVDQuant",
    "SCB": "bitsandbytes int8",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "weight_scale_2": "nvfp4",
    "weight_global_scale": "nvfp4",
    "weight_packed": "compressed-tensors",
    "weight_scale_inv": "fp8 in square blocks",
    "weight_zero_point": "integers with a zero point",
    "weight_offset": "integers with an offset",
    "pre_quant_scale": "AWQ with smoothed inputs",
    "_data": "quanto",
}
"""Last parts of names that other ways of quantising leave beside a layer."""

ADVICE = (
    "Rushes reads bf16, fp16 and fp32, and fp8 (e4m3, e5m2) plain or scaled. Give such a file of this model; "
    "--fp8_base or --fp8_scaled keep it small on the GPU"
)


def check_quantisation(header: Header) -> None:
    """Raise `ModelError`, with the kind's name, unless every weight of a file is what it says or scaled fp8."""
    for problem in problems(header):
        raise ModelError(f"{header.path} is quantised in a way that is not read: {problem}. {ADVICE}")


def check_directory(directory: Path, variant: str | None = None) -> None:
    """The same of a part's directory, which the loaders of diffusers and transformers read: they apply no scale.

    Args:
        variant: the one that is asked for; weights that are not read then may be anything.

    Raises:
        ModelError: it is quantised, or a file in it cannot be read.
    """
    try:
        config: Any = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}  # its absence is reported by the loader
    if isinstance(config, dict) and isinstance(config.get("quantization_config"), dict):
        method = config["quantization_config"].get("quant_method") or config["quantization_config"].get("quant_type")
        raise ModelError(f"{directory} is quantised in a way that is not read: {method} (config.json). {ADVICE}")
    for header in headers_in(directory, variant):
        check_unscaled(
            header, "a directory's loader leaves out: give the file by its own flag (--dit, --vae, --t5 ...)"
        )


def check_unscaled(header: Header, consequence: str) -> None:
    """The same of a file that is read by a loader which applies no scale.

    Raises:
        ModelError: it is quantised or has scales; `consequence` says what becomes of these.
    """
    check_quantisation(header)
    if scaled := next((name for name in header.entries if leaf(name) in (*SCALES, MARKER)), None):
        raise ModelError(f"{header.path} is scaled fp8 ({scaled}), whose scales {consequence}")


def headers_in(directory: Path, variant: str | None) -> Iterator[Header]:
    """Headers of a directory's safetensors files, each of several shards once; what cannot be read is passed over."""
    seen: set[Path] = set()
    others = unread_in(directory, variant)
    for file in sorted(directory.glob("*")):
        if file.suffix.lower() in SAFETENSORS and file not in seen and file.name not in others:
            with contextlib.suppress(ModelError):  # reported by whoever loads it
                header = read_header(file)
                seen |= set(header.files)
                yield header


def problems(header: Header) -> Iterator[str]:
    """What cannot be read, the surest sign first: a stated format, a foreign name, a precision, a scale."""
    yield from stated_formats(header)
    for name, entry in header.entries.items():
        if leaf(name) in QUANT_MARKERS:
            continue
        if kind := FOREIGN.get(leaf(name)):
            yield f"{kind} ({name})"
        elif ".weight." in name or unknown_scale(header, name):
            yield f"{name} stands beside a weight"
        elif entry.dtype not in FLOATS | FP8 and leaf(name) in PARAMETERS:
            yield f"{name} is {entry.dtype}{beside(header, name)}"
        elif reason := wrong_scale(header, name, entry):
            yield reason


def unknown_scale(header: Header, name: str) -> bool:
    """True for a scale or a zero point of a name that is not known, beside a weight."""
    module, _, last = name.rpartition(".")
    return f"{module}.weight" in header.entries and any(
        word in last.lower() for word in ("scale", "zero_point", "quant")
    )


def leaf(name: str) -> str:
    """The last part of a name."""
    return name.rpartition(".")[2]


def beside(header: Header, name: str) -> str:
    """The scale beside a weight, for a message."""
    found = next((scale for scale in scales_of(header, name)), None)
    return f" with a scale beside it ({found})" if found else ""


def scales_of(header: Header, name: str) -> list[str]:
    """Names of the scales that a weight has."""
    module = name.rpartition(".")[0]
    return [f"{module}.{scale}" for scale in SCALES if leaf(name) == "weight" and f"{module}.{scale}" in header.entries]


def wrong_scale(header: Header, name: str, entry: Entry) -> str | None:
    """Why the scale of a weight cannot be applied; None if it can, or there is none."""
    scales = scales_of(header, name)
    if not scales:
        return None
    if len(scales) > 1:
        return f"{name} has two scales, {' and '.join(scales)}"
    scale = header.entries[scales[0]]
    if entry.dtype not in FP8:
        return f"{name} is {entry.dtype} with a scale beside it ({scales[0]})"
    if scale.dtype not in FLOATS:
        return f"{name} has a scale of {scale.dtype}, as mxfp8 has ({scales[0]})"
    if not fits(entry.shape, scale.shape):
        return f"{name} {list(entry.shape)} has a scale of the shape {list(scale.shape)} ({scales[0]})"
    return None


def fits(weight: tuple[int, ...], scale: tuple[int, ...]) -> bool:
    """True for one scale for all, for each row [rows] or [rows, 1], or for each block of a row [rows, blocks, 1]."""
    if math.prod(scale) == 1:
        return True
    if len(weight) != 2 or not scale or scale[0] != weight[0]:
        return False
    if len(scale) == 3:
        return scale[2] == 1 and scale[1] > 0 and weight[1] % scale[1] == 0
    return len(scale) == 1 or scale[1:] == (1,)


def stated_formats(header: Header) -> Iterator[str]:
    """Formats that ComfyUI's markers state and that are not read."""
    for place, content in marked(header):
        layer: Mapping[str, Any] = content if isinstance(content, dict) else {}
        form = layer.get("format")
        if form not in READ_FORMATS:
            yield f"{form or 'no known format'} ({place})"
        elif more := sorted(layer.keys() - HARMLESS):
            yield f"{form} with {', '.join(more)} ({place})"


def marked(header: Header) -> Iterator[tuple[str, Any]]:
    """What ComfyUI's markers state, and where."""
    text = header.metadata.get(HEADER_MARKER)
    if text is not None:
        layers = parsed(str(text))
        layers = layers.get("layers") if isinstance(layers, dict) else None
        named = layers.items() if isinstance(layers, dict) else [("", layers)]
        yield from ((f"{HEADER_MARKER} {name}".strip(), layer) for name, layer in named)
    markers = [name for name in header.entries if leaf(name) == MARKER]
    if not header.pickled:
        yield from ((name, parsed(text_of(header.entries[name], name))) for name in markers)


def parsed(text: str) -> Any:
    """JSON as it is meant; None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def text_of(entry: Entry, name: str) -> str:
    """The text that a tensor of bytes holds."""
    try:
        with safe_open(entry.file, framework="numpy") as file:
            return np.asarray(file.get_tensor(entry.key or name)).astype(np.uint8).tobytes().decode("utf-8", "replace")
    except (OSError, SafetensorError, TypeError):
        return ""
