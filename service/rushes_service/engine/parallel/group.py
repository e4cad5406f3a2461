"""The processes that compute one transformer together, and what the leader tells the others.

A call of the transformer is told as a whole, its tensors through host memory: some megabytes a step.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from rushes_service.engine.parallel.trouble import Trouble
from rushes_service.runtime.devices import CPU

LEADER = 0

IDLE = timedelta(days=3650)
"""How long a follower waits for the next sample."""

COMPUTING = timedelta(minutes=30)
"""How long a process waits for the others inside a call; one of them has failed when it is over."""


class Group:
    """This process's place among the others.

    Args:
        rank: 0 is the leader.
        port: of this machine, on which the leader awaits the others.
    """

    def __init__(self, rank: int, size: int, device: torch.device, port: int) -> None:
        self.rank = rank
        self.size = size
        self.device = device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group(backend, init_method=address, rank=rank, world_size=size, timeout=COMPUTING)
        self._control = dist.new_group(backend="gloo", timeout=IDLE)

    def tell(self, what: str, *about: Any) -> None:
        """Send a command to the followers; tensors among its arguments go through host memory."""
        dist.broadcast_object_list([(what, moved(about, CPU))], src=LEADER, group=self._control)

    def hear(self) -> tuple[str, Any]:
        """The next command, its tensors on this process's device. Waits for it."""
        heard: list[Any] = [None]
        dist.broadcast_object_list(heard, src=LEADER, group=self._control)
        what, about = heard[0]
        return what, moved(about, self.device)

    def gather(self, status: Trouble | None) -> list[Trouble | None]:
        """What each process says, by rank; None is well. Waits for all of them."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, status, group=self._control)
        return found

    def leave(self) -> None:
        """The last that all processes do together."""
        dist.destroy_process_group()


def moved(value: Any, device: torch.device) -> Any:
    """`value` with all tensors in it on `device`."""
    if isinstance(value, torch.Tensor):
        return value.detach().to(device)
    if isinstance(value, (tuple, list)):
        return type(value)(moved(part, device) for part in value)
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    return value
