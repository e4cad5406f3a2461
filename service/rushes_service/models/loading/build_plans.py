"""How classes of diffusers and transformers are made from single files; each room has the plans of its own classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rushes.errors import ModelError
from rushes_service.models import rooms
from rushes_service.models.loading.configs import configuration
from rushes_service.models.loading.files.headers import Header
from rushes_service.models.loading.files.naming import Rule
from rushes_service.models.loading.files.quant_markers import without_quant_markers
from rushes_service.models.loading.files.rules import RuleOfConfig
from rushes_service.models.loading.files.shapes import Config, Derive, Shapes


@dataclass(frozen=True)
class BuildPlan:
    """How a class of diffusers or transformers is made from a file.

    The class's published configurations are in the room's `published/CLASS_NAME.json`. `derive` reads a configuration
    off the shapes, `rule` names parameters as the file does. `prefixes` may stand before every name that counts; the
    first that is there is taken off, and names without it are of other models in the same file. `anchors` are entries
    of the configuration that must be a published model's. `unused` is a pattern of tensors that the class does not use.
    `other_rules` name parameters as other files of the same model do.
    """

    class_name: str
    derive: Derive
    rule: RuleOfConfig
    anchors: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    unused: str = ""
    other_rules: tuple[RuleOfConfig, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A file, read as one class: its configuration, and the keys of the file by the names that the plan knows."""

    header: Header
    build_plan: BuildPlan
    config: Config
    model: str
    keys: Mapping[str, str] = field(repr=False)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Names of the live model -> names of the file, in each way that files of this model are written."""
        return tuple(rule(self.config) for rule in (self.build_plan.rule, *self.build_plan.other_rules))

    def is_unused(self, name: str) -> bool:
        """True for a tensor that the class has no use for."""
        return bool(self.build_plan.unused) and re.search(self.build_plan.unused, name) is not None


TRANSFORMER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.")
VAE_PREFIXES = ("vae.", "first_stage_model.")


@cache
def build_plans() -> Mapping[str, BuildPlan]:
    """The plans of all rooms, by the name of the class that they make."""
    return {plan.class_name: plan for room in rooms.ROOMS for plan in rooms.module(room, "files").BUILD_PLANS}


def build_plan_for(kind: type) -> BuildPlan:
    """The plan of a class, or of the class that it is derived from.

    Raises:
        ModelError: that class is not made from single files.
    """
    for base in kind.__mro__:
        if base.__name__ in build_plans():
            return build_plans()[base.__name__]
    raise ModelError(f"a {kind.__name__} is not made from a single file: give its directory with --rushes_model")


def plan(header: Header, build_plan: BuildPlan, overrides: Mapping[str, Any] | None = None) -> Plan:
    """How a file is read as the class that `build_plan` makes.

    Args:
        overrides: entries of the configuration that neither shapes nor the published model tell.

    Raises:
        ModelError: it is of another size than any published model, or incomplete.
    """
    keys = keys_of(header, build_plan)
    known = Shapes(header.path, {name: header.entries[key].shape for name, key in keys.items()})
    config, model = configuration(build_plan.class_name, known, build_plan.derive, build_plan.anchors)
    return Plan(header, build_plan, {**config, **(overrides or {})}, model, keys)


def keys_of(header: Header, build_plan: BuildPlan) -> dict[str, str]:
    """The names of one model in a file, by what they are without the prefix."""
    names = without_quant_markers(header.entries)
    prefix = next((prefix for prefix in build_plan.prefixes if any(name.startswith(prefix) for name in names)), "")
    return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
