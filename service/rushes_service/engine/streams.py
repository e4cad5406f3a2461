"""A stream of its own for the decode in the background, so that it does not wait for the next sample's denoising.

On one stream a GPU works in order: each frame would come after a queued denoising step (a clip that decodes in 3 s took
7 s on an H200). The stream of the decode has high priority, as its kernels are few.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

HIGH = -1
"""Priority; 0 is that of all other streams."""


class DecodeStream:
    """The stream of one engine's decodes; on the CPU nothing.

    One for all samples: the allocator keeps freed blocks for the stream they were made on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    def ready(self) -> torch.cuda.Event | None:
        """An event after all that the calling thread has queued."""
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    @contextlib.contextmanager
    def after(self, event: torch.cuda.Event | None, latents: torch.Tensor) -> Iterator[None]:
        """Inside, this thread queues its work on the stream, after `event`, beside that of other threads.

        Not to be left open while a generator yields: the stream is the thread's, not the generator's.
        """
        if event is None:
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device, priority=HIGH)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(event)
            if latents.device == self._device:  # on another card, what copies them here waits for them
                latents.record_stream(self._stream)
            yield
