"""The leader's part: before a sample the others bring their transformers to its weights, then every call is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn

from rushes.errors import WorkerUnfit, first_line
from rushes.wire.jobs import SampleJob
from rushes_service.engine.parallel.group import LEADER, Group
from rushes_service.engine.parallel.member import Member
from rushes_service.engine.parallel.sharing import check_lengths
from rushes_service.engine.parallel.trouble import Trouble, told, trouble_of
from rushes_service.engine.parallel.ways import FLASH, RING


class Leader(Member):
    """One engine's followers."""

    def install(self, transformers: Sequence[nn.Module]) -> None:
        """Have a loaded model's transformers computed by all."""
        super().install(transformers)
        for index, transformer in enumerate(transformers):
            transformer.forward = ToldCall(self.group, index, transformer)

    @contextlib.contextmanager
    def preparing(self, job: SampleJob) -> Iterator[None]:
        """Around the loading and merging of a sample's weights, which the followers do meanwhile.

        Raises:
            InputError, OutOfMemory: a follower could not, and goes on.
            WorkerUnfit: a follower could not, and ends.
        """
        self.group.tell("prepare", job.model_dump_json())
        trouble: Trouble | None = ("", "unfinished")
        try:
            yield
            trouble = None
        except BaseException as error:
            trouble = trouble_of(error)
            raise
        finally:
            said = self.group.gather(trouble)
        for rank, problem in enumerate(said):
            if problem is not None and rank != LEADER:
                raise told(problem, f"process {rank} of {self.group.size}")

    def unload(self) -> None:
        """Have the followers give the memory of their models back."""
        self.group.tell("unload")

    def end(self) -> None:
        """Let the followers go."""
        self.group.tell("end")
        self.group.leave()

    def facts(self) -> dict[str, Any]:
        """What a receipt says."""
        attention = {"attention": FLASH} if self.way == RING else {}
        return {"parallel": {"way": self.way, "devices": self.group.size}, **attention}


class ToldCall:
    """A transformer's `forward` that tells the followers of every call."""

    def __init__(self, group: Group, index: int, transformer: nn.Module) -> None:
        self._group = group
        self._index = index
        self._forward = transformer.forward
        self._check = partial(check_lengths, transformer, devices=group.size)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._check(kwargs)
        self._group.tell("call", self._index, args, kwargs)
        try:
            return self._forward(*args, **kwargs)
        except Exception as error:
            # The others wait inside this call for what will not come.
            raise WorkerUnfit(f"a call that {self._group.size} devices compute failed: {first_line(error)}") from error
