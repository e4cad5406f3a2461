"""A transformer whose calls are computed by all processes of a group, each a part of the sequence."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from diffusers import ContextParallelConfig
from diffusers.models.attention_dispatch import attention_backend
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from rushes.errors import ConfigError, ModelError
from rushes_service.engine.kernels.attention import HALF
from rushes_service.engine.parallel.on_cpu import make_up
from rushes_service.engine.parallel.ways import FLASH, RING, ULYSSES


def make_mesh(way: str, size: int, device_type: str) -> DeviceMesh:
    """The order of the processes, as diffusers takes it. All of them make it at the same time."""
    shape = (size, 1) if way == RING else (1, size)
    mesh = init_device_mesh(device_type, shape, mesh_dim_names=(RING, ULYSSES))
    mesh[RING, ULYSSES]._flatten()  # diffusers asks for it with each model; PyTorch keeps it
    return mesh


def share(transformer: nn.Module, way: str, mesh: DeviceMesh) -> None:
    """From now on each process of the group computes a part of the sequence in every call of `transformer`.

    Lengths and numbers of heads need not be multiples of the number of devices.

    Raises:
        ModelError: there are too few heads of attention, or for a ring no kernel in the transformer's precision.
    """
    devices = mesh.size()
    if way == ULYSSES:
        check_heads(transformer.config.num_attention_heads, devices)
    if transformer.device.type == "cpu":
        make_up()
    if way == RING:
        use_flash(transformer)
    transformer.enable_parallelism(
        config=ContextParallelConfig(mesh=mesh, **{f"{way}_degree": devices, f"{way}_anything": True}),
    )


def check_heads(heads: int, devices: int) -> None:
    """diffusers gives each device the same number of heads, and the last one fewer, but one at least."""
    each = -(-heads // devices)
    if each * (devices - 1) >= heads:
        raise ModelError(f"--parallel {ULYSSES}: {devices} devices cannot share {heads} heads; use fewer, or {RING}")


def check_lengths(transformer: nn.Module, inputs: Mapping[str, Any], devices: int) -> None:
    """Raise `ConfigError` if an input that goes to the blocks as long as it is, has no token for each device."""
    plans = [plan for plan in (transformer._cp_plan or {}).values() if isinstance(plan, dict)]
    for name, split in chain.from_iterable(plan.items() for plan in plans):
        value = inputs.get(name)
        if not isinstance(value, torch.Tensor) or value.ndim != split.expected_dims:
            continue
        if (length := value.shape[split.split_dim]) < devices:
            what = name.replace("_", " ")
            raise ConfigError(f"--devices: {devices} cannot share {length} tokens of {what}; make this sample on fewer")


def use_flash(transformer: nn.Module) -> None:
    """Attention by a kernel that tells the logarithm of its sums, too, by which parts of a ring are put together."""
    if transformer.device.type != "cpu" and transformer.dtype not in HALF:
        name = str(transformer.dtype).removeprefix("torch.")
        raise ModelError(f"--parallel {RING} computes in 16 bits, and this transformer is in {name}; use ulysses")
    with attention_backend(f"_{FLASH}"):  # diffusers sets its default, too: it is put back at the end
        transformer.set_attention_backend(f"_{FLASH}")
