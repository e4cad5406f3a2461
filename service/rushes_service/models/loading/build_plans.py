"""One row for each class that can be made from a single file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rushes.errors import ModelError
from rushes_service.models.loading.configs import configuration
from rushes_service.models.loading.files import rules, shapes
from rushes_service.models.loading.files.headers import Header
from rushes_service.models.loading.files.naming import Rule
from rushes_service.models.loading.files.quant_markers import without_marks
from rushes_service.models.loading.files.shapes import Config, Derive, Shapes


@dataclass(frozen=True)
class BuildPlan:
    """How a class of diffusers or transformers is made from a file.

    `prefixes` may stand before every name that counts; the first that is there is taken off, and names without it
    are of other models in the same file. `anchors` are entries of the configuration that must be a published model's.
    `spare` are tensors that the class has no use for.
    """

    kind: str
    derive: Derive
    rule: Callable[[Mapping[str, Any]], Rule]
    anchors: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    spare: str = ""


@dataclass(frozen=True)
class Plan:
    """A file, read as one class: its configuration, and the keys of the file by the names the recipe knows."""

    header: Header
    recipe: BuildPlan
    config: Config
    model: str
    keys: Mapping[str, str] = field(repr=False)

    @property
    def rule(self) -> Rule:
        """Names of the live model -> names of the file."""
        return self.recipe.rule(self.config)

    def is_spare(self, name: str) -> bool:
        """True for a tensor that the class has no use for."""
        return bool(self.recipe.spare) and re.search(self.recipe.spare, name) is not None


TRANSFORMER_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
VAE_PREFIXES = ("vae.", "first_stage_model.")
TOWER_PREFIXES = ("visual.", "vision_model.", "text_model.")

BUILD_PLANS = {
    recipe.kind: recipe
    for recipe in (
        BuildPlan(
            "WanTransformer3DModel",
            shapes.wan_transformer,
            rules.wan_transformer,
            ("num_attention_heads",),
            TRANSFORMER_PREFIXES,
        ),
        BuildPlan(
            "HunyuanVideoTransformer3DModel",
            shapes.hunyuan_transformer,
            rules.hunyuan_transformer,
            ("attention_head_dim",),
            TRANSFORMER_PREFIXES,
        ),
        BuildPlan(
            "HunyuanVideoFramepackTransformer3DModel",
            shapes.framepack_transformer,
            rules.unchanged,
            ("attention_head_dim",),
            TRANSFORMER_PREFIXES,
        ),
        BuildPlan(
            "FluxTransformer2DModel",
            shapes.flux_transformer,
            rules.flux_transformer,
            ("attention_head_dim",),
            TRANSFORMER_PREFIXES,
        ),
        BuildPlan("AutoencoderKLWan", shapes.wan_vae, rules.wan_vae, ("z_dim",), VAE_PREFIXES),
        BuildPlan(
            "AutoencoderKLHunyuanVideo", shapes.hunyuan_vae, rules.ldm_vae, ("block_out_channels",), VAE_PREFIXES
        ),
        BuildPlan("AutoencoderKL", shapes.image_vae, rules.ldm_vae, ("block_out_channels",), VAE_PREFIXES),
        BuildPlan("UMT5EncoderModel", shapes.t5, rules.umt5, spare=r"^(decoder\.|lm_head)"),
        BuildPlan("T5EncoderModel", shapes.t5, rules.t5, spare=r"^(decoder\.|lm_head|encoder\.embed_tokens)"),
        BuildPlan(
            "CLIPTextModel",
            shapes.clip_text,
            rules.tower,
            ("hidden_size",),
            ("text_model.",),
            r"position_ids|text_projection|logit_scale",
        ),
        BuildPlan(
            "LlamaModel",
            shapes.llama,
            rules.unchanged,
            ("hidden_size",),
            ("language_model.model.", "model.language_model.", "model."),
            r"lm_head|inv_freq",
        ),
        BuildPlan(
            "CLIPVisionModel",
            shapes.vision_tower,
            rules.clip_vision,
            ("hidden_size",),
            TOWER_PREFIXES,
            r"^head$|position_ids",
        ),
        BuildPlan(
            "SiglipVisionModel", shapes.vision_tower, rules.tower, ("hidden_size",), TOWER_PREFIXES, r"position_ids"
        ),
    )
}


def build_plan_for(kind: type) -> BuildPlan:
    """The recipe of a class, or of what it is derived from.

    Raises:
        ModelError: that class is not made from single files.
    """
    for base in kind.__mro__:
        if base.__name__ in BUILD_PLANS:
            return BUILD_PLANS[base.__name__]
    raise ModelError(f"a {kind.__name__} is not made from a single file: give its directory with --rushes_model")


def plan(header: Header, recipe: BuildPlan, overrides: Mapping[str, Any] | None = None) -> Plan:
    """How a file is read as what `recipe` makes.

    Args:
        overrides: entries of the configuration that neither shapes nor the published model tell.

    Raises:
        ModelError: it is of another size than any published model, or incomplete.
    """
    names = without_marks(header.entries)
    prefix = next((prefix for prefix in recipe.prefixes if any(name.startswith(prefix) for name in names)), "")
    keys = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    known = Shapes(header.path, {name: header.entries[key].shape for name, key in keys.items()})
    config, model = configuration(recipe.kind, known, recipe.derive, recipe.anchors)
    return Plan(header, recipe, {**config, **(overrides or {})}, model, keys)
