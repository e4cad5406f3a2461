"""Kinds of adapters that are known but not read, and numbers that are not what they mean: each refused by its name."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping

import torch

from rushes.errors import LoraMismatch
from rushes_service.lora.reading.keys import REMEMBERED
from rushes_service.lora.reading.statements import Statement

KINDS: tuple[tuple[str, str], ...] = (
    (r"oft_(?:blocks|diag|R)|rescale", "OFT or BOFT"),
    (r"boft_\w+", "BOFT"),
    (r"[ab][12]|bm[12]?|glora_\w+", "GLoRA"),
    (r"lora_E|ranknum", "AdaLoRA"),
    (r"[pq]_layer|lambda_layer|base_[pq]|base_lambda", "T-LoRA"),
    (r"ia3_\w+|on_input", "IA3"),
    (r"p?vera_\w+", "VeRA"),
    (r"lora_embedding_[AB]", "LoRA of an embedding"),
    (r"scalar", "LoRA with a scalar that was not multiplied into its factors"),
    (r"bone_\w+|miss_\w+", "MiSS (Bone)"),
    (r"(?:internal_)?xlora\w*", "X-LoRA"),
    (
        r"(randlora|vblora|fourierft|waveft|hra|c3a|shira|road|delora|poly|frod|hira|osf|shadow|unilora|psoft|peanut|lily"
        r"|deft|gralora|beft|ln_tuning|adamss|supertuning|tinylora|trainable_tokens)_\w+",
        "",
    ),
    (
        r"(?:lora|hada|lokr)_(?!(?:down|up|A|B|alpha|w[12](?:_[ab])?|mid|t[12]|magnitude_vector|linear_layer)(?:\.|$)|unet_|transformer_|te\d?_)\w+",
        "an unknown relative of LoRA",
    ),
)
"""Components of keys that the name of a module ends before, and the kind of adapter; "" is what the component says."""

KIND_KEYS = tuple((re.compile(rf".*\.(?:{pattern})(?:\.[^.]+)?(?:\.weight)?"), kind) for pattern, kind in KINDS)

SWITCHES = ("use_qalora", "use_bdlora", "alora_invocation_tokens", "layer_replication", "arrow_config")
"""PEFT's settings of LoRA that make another forward pass of the same tensors."""

ADAPTER_SCALE = re.compile(r".*\.scale")
"""A factor of an adapter's own, beside its tensors; whole checkpoints of FLUX have such keys of norms."""

READ_TYPES = {"LORA", "LOHA", "LOKR"}
"""PEFT's `peft_type` of what is read."""

ALTERED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""PEFT's initialisations that change the base model too, so that the adapter alone means nothing."""

QUANTISED = re.compile(
    r"(^|[._])(scale_weight|weight_scale(_2|_inv)?|scale_inv|scaled_fp8|comfy_quant|input_scale|scale_input|absmax"
    r"|quant_map|quant_state|nested_absmax|zero_point|qweight|qzeros|scales|g_idx|SCB|weight_format)([._]|$)"
    r"|(lora_(down|up|A|B)(\.default)?(\.weight)?|hada_w[12]_[ab]|lokr_w[12](_[ab])?|diff|diff_b)[._](\w+_)?scale"
    r"(_weight)?$"
)
"""Keys that belong to quantised tensors: what lies beside them are not the numbers that they stand for."""

QUANTISED_HEADER = ("_quantization_metadata", "quantization_config", "quant_type")


def refused_kind(keys: Iterable[str], statements: Iterable[Statement]) -> str | None:
    """What a file's adapters are, if they are of a kind that is not read; None if they are of one that is."""
    for statement in statements:
        config = statement.config or {}
        kind = config.get("peft_type")
        if isinstance(kind, str) and kind.upper().removeprefix("PEFTTYPE.") not in READ_TYPES:
            return f"{kind} ({statement.place})"
        if switch := next((name for name in SWITCHES if config.get(name)), None):
            return f"LoRA with {switch} ({statement.place})"
    for key in keys:
        if kind := kind_of_key(key):
            return f"{kind} ({key})"
    return None


@functools.lru_cache(maxsize=REMEMBERED)
def kind_of_key(key: str) -> str | None:
    """The kind that is not read to which a key belongs."""
    for pattern, kind in KIND_KEYS:
        if match := pattern.fullmatch(key):
            return kind or match[1]
    return None


def altered_base(statements: Iterable[Statement]) -> str | None:
    """The initialisation that changed the base model as well; None if none did."""
    for statement in statements:
        start = (statement.config or {}).get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(ALTERED_BASES):
            return start
    return None


def unread_part(keys: Collection[str], statements: Iterable[Statement]) -> str | None:
    """What changes an adapter's strength and is not read, or is missing; None if there is no such thing."""
    adapter = any(re.search(r"\.(?:lora_|lora\.|hada_|lokr_)", key) for key in keys)
    if adapter and (scale := next((key for key in keys if ADAPTER_SCALE.fullmatch(key)), None)):
        return f"{scale} scales its adapters in a way that is not known"
    dora = next((statement.place for statement in statements if (statement.config or {}).get("use_dora")), None)
    if dora and not any(part in key for key in keys for part in ("magnitude", "dora_scale")):
        return f"{dora} says that it is a DoRA, but it holds no lengths (lora_magnitude_vector)"
    return None


def quantised(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str | None:
    """The key, header entry or type that says that a file's numbers are quantised; None if nothing does."""
    if marker := next((key for key in tensors if QUANTISED.search(key)), None):
        return marker
    if entry := next((key for key in QUANTISED_HEADER if key in metadata), None):
        return f"{entry} in its header"
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() and not key.endswith("alpha"):
            return f"{key} is of {str(tensor.dtype).removeprefix('torch.')}"
    return None


def check_readable(
    path: object,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    statements: Iterable[Statement],
) -> None:
    """Raise `LoraMismatch` for what no flag makes mergeable.

    Raises:
        LoraMismatch: quantised numbers, an adapter of a kind that is not read, or one that changed its base.
    """
    statements = list(statements)
    if kind := refused_kind(tensors, statements):
        raise LoraMismatch(
            f"{path}: its adapters are of a kind that is not read: {kind}; LoRA, LoHa, LoKr and DoRA are"
        )
    if start := altered_base(statements):
        raise LoraMismatch(
            f"{path}: it was initialised with {start}, which also alters the base model; convert it when saving "
            "(PEFT: path_initial_model_for_weight_conversion)"
        )
    if part := unread_part(tensors.keys(), statements):
        raise LoraMismatch(f"{path}: {part}; save it again with its trainer's own function")
    if what := quantised(tensors, metadata):
        raise LoraMismatch(
            f"{path}: its numbers are quantised ({what}), and only base models may be; save it in bfloat16 or float32"
        )
