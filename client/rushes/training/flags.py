"""The flags that trainers already have, and ours beside them: from parsed arguments to a `Run`."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from rushes._paths import absolute
from rushes.errors import ConfigError
from rushes.families.drafts import draft_threshold
from rushes.families.table import ARCHITECTURES
from rushes.submission.build import DEFAULT_VAE, Run, extra_loras, run_name
from rushes.wire.base import FrozenModel, summary
from rushes.wire.jobs import DRAFT_THRESHOLD, ExtraLora, Keep, VaeOptions
from rushes.wire.models import ModelSpec

MODEL_FLAGS = (
    "dit",
    "dit_high_noise",
    "vae",
    "text_encoder",
    "text_encoder1",
    "text_encoder2",
    "byt5",
    "text_encoder_qwen",
    "text_encoder_clip",
    "t5",
    "clip",
    "image_encoder",
    "tokenizer1",
    "tokenizer2",
)
"""Flags that name parts of the base model: the trainers' own, and those of the tokenizers."""

MODEL_SWITCHES = (
    "fp8_base",
    "fp8_scaled",
    "fp8_fast",
    "fp8_llm",
    "fp8_vl",
    "fp8_t5",
    "fp8_text_encoder",
    "f1",
    "latent_window_size",
    "scheduler_scale",
    "variant",
)
"""Flags of the trainers that say how the base model is to be used, wherever its files are."""

SHORT_DTYPES = {"fp32": "float32", "float": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""What trainers also call a precision."""

SAMPLED_INSTEAD = ("dit", "dit_high_noise")
"""Parts that may be others in samples than in training: `--rushes_dit`, `--rushes_dit_high_noise`."""

OWN_CHOICES = ("dtype", "experts", "lora_expert")
"""Ours that do the same: `--rushes_dtype`, `--rushes_experts`, `--rushes_lora_expert`."""

DRAFT_FLAG: dict[str, Any] = {
    "nargs": "?",
    "type": float,
    "const": DRAFT_THRESHOLD,
    "metavar": "THRESHOLD",
    "help": "drafts: faster and approximate, by computing only the first block of a step where that changed by less "
    f"than THRESHOLD (default: {DRAFT_THRESHOLD}); not to judge a LoRA by",
}
"""Of `--rushes_draft`, and of `--draft` where there is no trainer."""

LORA_FLAGS = (("base_weights", "base_weights_multiplier"), ("lora_weight", "lora_multiplier"))
"""What a trainer merges into its base before it trains, then what is merged for samples only."""


def run_from_args(
    given: dict[str, Any], architecture: str, *, model: str | None = None, name: str | None = None, keep: Keep = "all"
) -> Run:
    """What all samples of a run share, from a trainer's parsed flags."""
    output_dir = str(absolute(given.get("output_dir") or "."))
    output_name = given.get("output_name")
    return Run(
        name=name or given.get("rushes_run") or run_name(output_dir, output_name),
        model=model_from_args(given, architecture, model),
        output_dir=output_dir,
        output_name=output_name,
        vae=vae_from_args(given),
        keep=keep,
        loras=checked_experts(loras_from_args(given), given, architecture),
        allow_partial_lora=bool(given.get("allow_partial_lora")),
        allow_other_family=bool(given.get("allow_other_family")),
        noise=given.get("rushes_noise") or "device",
        draft=draft_threshold(given.get("rushes_draft"), "--draft"),
        staging=given.get("rushes_staging") or None,
    )


def model_from_args(given: dict[str, Any], architecture: str, model: str | None) -> ModelSpec:
    """The base model that a trainer's flags name. Local paths become absolute."""
    source = model or given.get("rushes_model")
    spec = ARCHITECTURES.get(architecture)
    # A trainer has flags for other families too; a file that this one has no use for is not part of its model.
    flags = (*(file.flag for file in spec.files), *spec.weights) if spec else MODEL_FLAGS
    parts = {flag: located(given[flag]) for flag in (*flags, *MODEL_SWITCHES) if given.get(flag)}
    version = given.get(spec.version_flag if spec else "") or given.get("model_version")
    for flag, part, stands_for in spec.stand_ins if spec else ():
        if given.get(flag):
            parts[part], version = located(given[flag]), stands_for
    parts |= {flag: located(given[f"rushes_{flag}"]) for flag in SAMPLED_INSTEAD if given.get(f"rushes_{flag}")}
    parts |= {field: given[f"rushes_{field}"] for field in OWN_CHOICES if given.get(f"rushes_{field}")}
    if given.get("vae_dtype"):
        named = str(given["vae_dtype"]).removeprefix("torch.")
        parts["vae_dtype"] = SHORT_DTYPES.get(named, named)
    if spec and version and version != next(iter(spec.versions), None):
        parts["model_version"] = version  # the first is what is meant without the flag
    variants = [other for flag, other in spec.variants if given.get(flag)] if spec else []
    return checked(ModelSpec, architecture=next(iter(variants), architecture), model=located(source), **parts)


def loras_from_args(given: dict[str, Any]) -> tuple[ExtraLora, ...]:
    """The LoRAs that are merged beside every checkpoint.

    Also those that the trainer itself has merged before training (musubi-tuner's `--base_weights`): a checkpoint is
    worth little without what it was trained on.

    Raises:
        CheckpointMissing, ConfigError: as `extra_loras`.
    """
    found: list[ExtraLora] = []
    for files, strengths in LORA_FLAGS:
        paths: Sequence[str] = given.get(files) or ()
        values: Any = given.get(strengths) or ()
        if isinstance(values, (int, float)):
            values = [values] * len(paths)
        experts = (given.get("lora_expert") or ()) if files == "lora_weight" else ()
        found += extra_loras(paths, values if paths else (), experts)
    return tuple(found)


def checked_experts(loras: tuple[ExtraLora, ...], given: dict[str, Any], architecture: str) -> tuple[ExtraLora, ...]:
    """`loras`; raises `ConfigError` if a flag names a transformer for them and the family has but one."""
    spec = ARCHITECTURES.get(architecture)
    if given.get("lora_expert") and spec is not None and spec.high_noise_cfg_scale is None:
        raise ConfigError(f"{architecture} has one transformer: leave --lora_expert out")
    return loras


def vae_from_args(given: dict[str, Any]) -> VaeOptions:
    """How a trainer's flags want latents decoded."""
    flags = ("vae_chunk_size", "vae_spatial_tile_sample_min_size", "vae_tiling", "bulk_decode")
    tile = given.get("vae_sample_size")
    if not any(given.get(flag) for flag in flags) and tile is None:
        return DEFAULT_VAE
    return checked(
        VaeOptions,
        flag="--vae_",
        bulk_decode=bool(given.get("bulk_decode")) or tile == 0,
        chunk_size=given.get("vae_chunk_size") or None,
        spatial_tile_sample_min_size=given.get("vae_spatial_tile_sample_min_size") or tile or None,
        tiling=bool(given.get("vae_tiling")),
    )


Checked = TypeVar("Checked", bound=FrozenModel)


def checked(kind: type[Checked], *, flag: str = "--", **fields: Any) -> Checked:
    """A wire type from the values of flags.

    Raises:
        ConfigError: one of them has a value it cannot have.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise ConfigError(f"{flag}{summary(error)}") from None


def located(value: Any) -> Any:
    """Absolute form of a path that exists; a hub id, or anything else, as it is."""
    if not isinstance(value, (str, os.PathLike)):
        return value
    text = str(cast("object", value))
    path = os.path.expanduser(text)  # noqa: PTH111 - a Path raises for `~nobody`
    return str(absolute(path)) if os.path.exists(path) else text  # noqa: PTH110


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the trainers' own sampling flags, and ours, to a parser; flags it already has are left alone."""
    about = "samples are made by Rushes, outside this process"
    group = parser.add_argument_group("sampling", about, conflict_handler="error")
    for flag, options in SAMPLING_FLAGS.items():
        with contextlib.suppress(argparse.ArgumentError):  # the parser has this flag
            group.add_argument(flag, **options)


SAMPLING_FLAGS: dict[str, dict[str, Any]] = {
    "--sample_prompts": {
        "metavar": "FILE",
        "help": "prompt file (.txt, .toml or .json); without it nothing is sampled",
    },
    "--sample_every_n_steps": {"metavar": "N", "type": int, "help": "sample every N optimizer steps"},
    "--sample_every_n_epochs": {"metavar": "N", "type": int, "help": "sample every N epochs"},
    "--sample_at_first": {"action": "store_true", "help": "sample the base model before the first step"},
    "--output_dir": {"metavar": "DIR", "help": "where the trainer writes; samples go to its sample/ directory"},
    "--output_name": {"metavar": "NAME", "help": "begins the name of every file"},
    "--dit": {"metavar": "FILE", "help": "transformer weights"},
    "--dit_high_noise": {"metavar": "FILE", "help": "Wan2.2: weights of the transformer for much noise"},
    "--turbo_dit": {"metavar": "FILE", "help": "Krea 2: Turbo's weights, sampled instead of those in --dit"},
    "--vae": {"metavar": "FILE", "help": "VAE weights"},
    "--vae_dtype": {
        "metavar": "DTYPE",
        "help": "precision of the VAE: float32, bfloat16 or float16 (default: the family's)",
    },
    "--vae_chunk_size": {"metavar": "N", "type": int, "help": "decode in chunks of this size (exact)"},
    "--vae_spatial_tile_sample_min_size": {
        "metavar": "N",
        "type": int,
        "help": "decode in tiles of this many pixels (approximate)",
    },
    "--vae_tiling": {"action": "store_true", "help": "decode in tiles (approximate)"},
    "--text_encoder": {"metavar": "FILE", "help": "text encoder of a family with a single one (Qwen2.5-VL, Qwen3)"},
    "--text_encoder1": {"metavar": "FILE", "help": "first text encoder"},
    "--text_encoder2": {"metavar": "FILE", "help": "second text encoder"},
    "--fp8_base": {"action": "store_true", "help": "transformer's weights in fp8, computed in its own precision"},
    "--fp8_scaled": {
        "action": "store_true",
        "help": "the same with a scale for every 64 weights, with --fp8_base or alone",
    },
    "--fp8_fast": {"action": "store_true", "help": "products in fp8, too: approximate, for cards since Ada and Hopper"},
    "--fp8_llm": {"action": "store_true", "help": "first text encoder, or Qwen3, in fp8"},
    "--fp8_vl": {"action": "store_true", "help": "Qwen2.5-VL in fp8"},
    "--fp8_text_encoder": {"action": "store_true", "help": "FLUX.2's Qwen3 in fp8"},
    "--byt5": {"metavar": "FILE", "help": "HunyuanVideo 1.5: encoder of words to be seen in the picture"},
    "--vae_sample_size": {
        "metavar": "PIXELS",
        "type": int,
        "help": "HunyuanVideo 1.5: decode in tiles of this many pixels (default: 128; 0: at once)",
    },
    "--text_encoder_qwen": {"metavar": "DIR", "help": "Kandinsky 5: Qwen2.5-VL with its tokenizer"},
    "--text_encoder_clip": {"metavar": "DIR", "help": "Kandinsky 5: CLIP's text encoder with its tokenizer"},
    "--scheduler_scale": {
        "metavar": "X",
        "type": float,
        "help": "Kandinsky 5: flow shift (default: that of the task)",
    },
    "--t5": {"metavar": "FILE", "help": "T5 text encoder"},
    "--fp8_t5": {"action": "store_true", "help": "T5 in fp8"},
    "--clip": {"metavar": "FILE", "help": "CLIP image encoder"},
    "--image_encoder": {"metavar": "FILE", "help": "SigLIP image encoder"},
    "--tokenizer1": {
        "metavar": "DIR",
        "help": "tokenizer of T5 or of the first text encoder (default: from --rushes_model or the hub)",
    },
    "--tokenizer2": {"metavar": "DIR", "help": "tokenizer of the second text encoder (default: likewise)"},
    "--model_version": {
        "metavar": "NAME",
        "help": "which of a family's models it is, edit-2511 say (default: the first that `rushes models` lists)",
    },
    "--variant": {
        "metavar": "NAME",
        "help": "weights of this variant (fp16, say) in directories and repositories that have them, as in diffusers",
    },
    "--f1": {"action": "store_true", "help": "FramePack: the model is the F1 variant"},
    "--latent_window_size": {"metavar": "N", "type": int, "help": "FramePack: latent frames in a section (default: 9)"},
    "--one_frame": {"action": "store_true", "help": "FramePack: single pictures, see --of in prompt files"},
    "--bulk_decode": {"action": "store_true", "help": "FramePack: decode the clip at once, not by sections"},
    "--lora_weight": {
        "nargs": "+",
        "action": "extend",
        "metavar": "FILE",
        "help": "further LoRAs, merged into every sample beside the checkpoint",
    },
    "--lora_multiplier": {
        "nargs": "+",
        "action": "extend",
        "type": float,
        "metavar": "X",
        "help": "their strengths, in the same order (default: 1); --m of a prompt scales the checkpoint only",
    },
    "--lora_expert": {
        "nargs": "+",
        "action": "extend",
        "choices": ("high", "low"),
        "help": "Wan2.2: which transformers they are for, in the same order (default: what their names say, or both)",
    },
    "--allow_other_family": {
        "action": "store_true",
        "help": "a LoRA that is for another model family is a warning on the sample, not an error",
    },
    "--allow_partial_lora": {
        "action": "store_true",
        "help": "keys of a LoRA that fit nothing in the model are a warning on the sample, not an error",
    },
    "--rushes_url": {
        "metavar": "URL",
        "help": "Redis of the sampling service (default: RUSHES_REDIS_URL, else this machine)",
    },
    "--rushes_model": {
        "metavar": "MODEL",
        "help": "diffusers directory or hub id of the base model; files given by other flags replace its parts",
    },
    "--rushes_dit": {"metavar": "FILE", "help": "transformer weights of samples, if not --dit"},
    "--rushes_dit_high_noise": {
        "metavar": "FILE",
        "help": "Wan2.2: transformer for much noise of samples, if not --dit_high_noise; see --rushes_experts",
    },
    "--rushes_noise": {
        "choices": ("device", "cpu"),
        "help": "whose random numbers samples start from: the sampling GPU's, as trainers draw them, which differ "
        "between kinds of GPU, or the CPU's, which are the same everywhere (default: device)",
    },
    "--rushes_draft": DRAFT_FLAG,
    "--rushes_dtype": {
        "choices": ("bfloat16", "float16", "float32"),
        "help": "precision of the transformer (default: the worker's, bfloat16 on a GPU)",
    },
    "--rushes_experts": {
        "choices": ("low", "high", "both"),
        "help": "Wan2.2: transformers that make the clip (default: low, for little noise, as trainers sample)",
    },
    "--rushes_lora_expert": {
        "choices": ("low", "high"),
        "help": "Wan2.2 with --rushes_experts both: the one that the LoRA is trained on (default: both)",
    },
    "--rushes_staging": {
        "metavar": "URL",
        "help": "store for workers that share no file system with this machine, s3://bucket/runs for example "
        "(default: none); checkpoints are uploaded there, and samples are written there",
    },
    "--rushes_run": {
        "metavar": "NAME",
        "help": "name of the run in the gallery (default: from --output_name and --output_dir)",
    },
}
