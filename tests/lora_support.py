"""LoRA files of every format for any family: made from the family's own table of names, applied by hand in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from rushes_service.lora.targets import LoraTarget, NameTable

RANK = 3
ALPHA = 1.5
SIZE = 0.05
"""Spread of the factors: deltas that show, and do not drown the model."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class FileModule:
    """A module as a file calls it: its original or its diffusers name, its weight's shape, and where that goes."""

    name: str
    shape: tuple[int, int]
    targets: tuple[LoraTarget, ...]


@dataclass
class Adapter:
    """A file's tensors, and the deltas [out, in] in float64 that they mean, by the module's name in the file."""

    tensors: Tensors = field(default_factory=dict)
    deltas: dict[str, torch.Tensor] = field(default_factory=dict)


def linears(model: nn.Module, names: NameTable, *, original: bool) -> list[FileModule]:
    """Linear modules of first blocks, each weight once, by their original or by their diffusers names."""
    renamed = {target.module for name, targets in names.dotted.items() if not own(name, targets) for target in targets}
    found, seen = [], set()
    for name, targets in names.dotted.items():
        module = model.get_submodule(targets[0].module)
        if not isinstance(module, nn.Linear) or ".0." not in name or targets[0].module in seen:
            continue
        if own(name, targets) == (not original or targets[0].module not in renamed):
            rows = max(target.rows[1] for target in targets) if targets[0].rows else module.out_features
            found.append(FileModule(name, (rows, module.in_features), targets))
            seen.update(target.module for target in targets)
    return found


def own(name: str, targets: tuple[LoraTarget, ...]) -> bool:
    """True for a diffusers name: that of the module itself."""
    return all(f".{target.module}".endswith(f".{name}") and target.rows is None for target in targets)


def noise(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=generator) * SIZE


def low_rank(rows: int, columns: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return noise(RANK, columns, generator=generator) * 4, noise(rows, RANK, generator=generator) * 4


def musubi(modules: list[FileModule], generator: torch.Generator) -> Adapter:
    found = Adapter()
    for module in modules:
        down, up = low_rank(*module.shape, generator)
        name = f"lora_unet_{module.name.replace('.', '_')}"
        found.tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        found.tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
        found.deltas[module.name] = ALPHA / RANK * (up.double() @ down.double())
    return found


def subset(modules: list[FileModule], generator: torch.Generator) -> Adapter:
    return musubi(modules[::3], generator)


def comfyui(modules: list[FileModule], generator: torch.Generator) -> Adapter:
    found = Adapter()
    for module in modules:
        down, up = low_rank(*module.shape, generator)
        name = f"diffusion_model.{module.name}"
        found.tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        found.deltas[module.name] = up.double() @ down.double()
    return found


def comfyui_alpha(modules: list[FileModule], generator: torch.Generator) -> Adapter:
    found = musubi(modules, generator)
    flat = {module.name.replace(".", "_"): module.name for module in modules}
    found.tensors = {
        f"diffusion_model.{flat[name.removeprefix('lora_unet_')]}.{rest}": tensor
        for key, tensor in found.tensors.items()
        for name, _, rest in [key.partition(".")]
    }
    return found


def musubi_other(modules: list[FileModule], generator: torch.Generator) -> Adapter:
    """As musubi-tuner exports: sqrt(alpha / rank) in both halves, and dots guessed from underscores."""
    found = Adapter()
    for module in modules:
        down, up = low_rank(*module.shape, generator)
        name = f"diffusion_model.{module.name.replace('_', '.')}"
        root = (ALPHA / RANK) ** 0.5
        found.tensors |= {f"{name}.lora_A.weight": down * root, f"{name}.lora_B.weight": up * root}
        found.deltas[module.name] = ALPHA / RANK * (up.double() @ down.double())
    return found


def diffusers(modules: list[FileModule], generator: torch.Generator) -> Adapter:
    found = comfyui(modules, generator)
    found.tensors = {f"transformer.{k.removeprefix('diffusion_model.')}": v for k, v in found.tensors.items()}
    return found


def loha(modules: list[FileModule], generator: torch.Generator) -> Adapter:
    from lycoris.modules.loha import LohaModule

    return lycoris(modules, generator, LohaModule)


def lokr(modules: list[FileModule], generator: torch.Generator) -> Adapter:
    from lycoris.modules.lokr import LokrModule

    return lycoris(modules, generator, LokrModule, factor=4)


def lokr_full(modules: list[FileModule], generator: torch.Generator) -> Adapter:
    from lycoris.modules.lokr import LokrModule

    return lycoris(modules, generator, LokrModule, factor=4, full_matrix=True)


def lokr_both(modules: list[FileModule], generator: torch.Generator) -> Adapter:
    from lycoris.modules.lokr import LokrModule

    return lycoris(modules, generator, LokrModule, factor=8, decompose_both=True)


def lycoris(modules: list[FileModule], generator: torch.Generator, kind: Any, **options: Any) -> Adapter:
    """Modules of the lycoris package with random weights; the deltas are what that package says they are."""
    found = Adapter()
    for module in modules:
        rows, columns = module.shape
        name = f"lora_unet_{module.name.replace('.', '_')}"
        made = kind(name, nn.Linear(columns, rows), lora_dim=RANK, alpha=ALPHA, bypass_mode=False, **options)
        for parameter in made.parameters():
            parameter.data = noise(*parameter.shape, generator=generator) * 6 if parameter.dim() else parameter.data
        state = {key: value.detach().clone() for key, value in made.state_dict().items()}
        found.tensors |= {f"{name}.{key}": value.contiguous() for key, value in state.items() if "org_" not in key}
        found.deltas[module.name] = made.double().get_weight(made.shape).detach().view(rows, columns)
    return found


def difference(modules: list[FileModule], generator: torch.Generator) -> Adapter:
    found = Adapter()
    for module in modules:
        delta = noise(*module.shape, generator=generator)
        found.tensors[f"diffusion_model.{module.name}.diff"] = delta
        found.deltas[module.name] = delta.double()
    return found


ORIGINAL: dict[str, Callable[[list[FileModule], torch.Generator], Adapter]] = {
    "musubi": musubi,
    "subset": subset,
    "ComfyUI A/B": comfyui,
    "ComfyUI down/up + alpha": comfyui_alpha,
    "musubi other": musubi_other,
    "LoHa": loha,
    "LoKr": lokr,
    "LoKr, whole": lokr_full,
    "LoKr, both low-rank": lokr_both,
    "difference": difference,
}
"""Formats that name modules as the model's own release does."""

FORMATS = {**ORIGINAL, "diffusers": diffusers}


def write(adapter: Adapter, path: Path, metadata: dict[str, str] | None = None) -> Path:
    """The adapter as a file."""
    save_file(adapter.tensors, path, metadata=metadata)
    return path


def write_peft(adapter: Adapter, directory: Path, **config: Any) -> Path:
    """The adapter (of `diffusers`) as a PEFT directory."""
    directory.mkdir()
    tensors = {f"base_model.model.{k.removeprefix('transformer.')}": v for k, v in adapter.tensors.items()}
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, **config}))
    return directory


def by_hand(base: Tensors, adapter: Adapter, modules: list[FileModule], strength: float = 1.0) -> Tensors:
    """The weights that the adapter leaves, by name; added in float64."""
    weights: Tensors = {}
    for module in modules:
        for target in module.targets if module.name in adapter.deltas else ():
            delta = adapter.deltas[module.name]
            part = delta if target.rows is None else delta[slice(*target.rows)]
            name = f"{target.module}.weight"
            weight = weights.setdefault(name, base[name].double())
            weight[slice(*target.into) if target.into else slice(None)] += strength * part
    return weights
