"""What an engine asks of those that compute its transformers with it, see `rushes_service.engine.parallel`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from torch import nn

from rushes.errors import ConfigError
from rushes.wire.jobs import SampleJob
from rushes_service.engine.fallbacks import Fallback


class Partners:
    """The other processes of an engine's samples; as it is here, there are none."""

    batching = True
    """Whether samples may share a batch."""

    keeping = True
    """Whether a model that leaves may be kept in host memory."""

    def install(self, transformers: Sequence[nn.Module]) -> None:
        """Have the transformers of a model that was loaded computed by all.

        Raises:
            ModelError: they cannot be.
        """

    def preparing(self, job: SampleJob) -> contextlib.AbstractContextManager[None]:
        """Around the loading and merging of a sample's weights, which the others do as well.

        Raises:
            InputError, OutOfMemory, WorkerUnfit: another process could not.
        """
        del job
        return contextlib.nullcontext()

    def unload(self) -> None:
        """Have the others give the memory of their models back."""

    def check_draft(self) -> None:
        """Raise `ConfigError` if no drafts can be made."""

    def can(self, fallback: Fallback) -> bool:
        """True if a way to make do with less memory may be tried."""
        del fallback
        return True

    def facts(self) -> dict[str, Any]:
        """What a receipt says."""
        return {}


class Together(Partners):
    """What holds for each of several processes. Offloaded transformers and batches were not tried with it, and a model
    in host memory would be there once for each.
    """

    batching = False
    keeping = False

    def can(self, fallback: Fallback) -> bool:
        """An offloaded transformer's blocks come and go."""
        return not fallback.offload

    def check_draft(self) -> None:
        """Each process has a part of the tokens, and would skip blocks by it that the others wait in."""
        raise ConfigError(
            "a draft is made by one device, and this worker's make each sample together (--devices): leave it out"
        )
