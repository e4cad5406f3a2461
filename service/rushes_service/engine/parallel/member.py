"""What leader and followers have in common."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from rushes_service.engine.parallel.group import Group
from rushes_service.engine.parallel.partners import Together
from rushes_service.engine.parallel.sharing import make_mesh, share


class Member(Together):
    """One of the processes of a group, which all make theirs at the same time."""

    def __init__(self, group: Group, way: str) -> None:
        self.group = group
        self.way = way
        # Once, and not for each model: PyTorch numbers groups of processes as they are made, and keeps them.
        self.mesh = make_mesh(way, group.size, group.device.type)

    def install(self, transformers: Sequence[nn.Module]) -> None:
        """Compute a part of the calls of a model that is loaded. Waits for nobody."""
        for transformer in transformers:
            share(transformer, self.way, self.mesh)
