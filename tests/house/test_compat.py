"""Private names of other libraries that the compat modules use: each exists in the installed versions."""

from __future__ import annotations

import torch
from diffusers.hooks import HookRegistry, group_offloading
from torch import nn

from rushes_service.runtime.compat_diffusers import GROUP_OFFLOADING, offload_group, offload_hook
from rushes_service.runtime.compat_torch import copy_all


def test_tensors_are_copied_together():
    targets = [torch.zeros(2), torch.zeros(3)]
    copy_all(targets, [torch.ones(2), torch.ones(3)])
    assert all(bool((target == 1).all()) for target in targets)


def test_the_hook_of_group_offloading_is_found_and_moves_its_group():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(2, 2)])

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.blocks[0](values)

    model = Model()
    assert offload_hook(model) is None
    cpu = torch.device("cpu")
    group_offloading.apply_group_offloading(model, cpu, offload_type="block_level", num_blocks_per_group=1)
    assert group_offloading._GROUP_OFFLOADING == GROUP_OFFLOADING
    assert any(offload_hook(part) is not None for part in model.modules())
    assert any(isinstance(getattr(part, "_diffusers_hook", None), HookRegistry) for part in model.modules())
    for part in model.modules():
        offload_group(part)
