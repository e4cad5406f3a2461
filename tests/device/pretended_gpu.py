"""A pretended CUDA for a PyTorch that has none: four cards with real numbers, in this process, for good.

`backend/` has the operations; here is what `torch.cuda` says about them. Numbers are the CPU's, bit for bit. What a
card would refuse (tensors of two places, another index, more memory than there is) is refused, what it would be slow at
(copies that move a model, waits of the host) is counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

from building import LIBRARY

ctypes.CDLL(os.environ[LIBRARY])  # before PyTorch, which asks only once who provides CUDA

import torch  # noqa: E402

NAME = "Pretended GPU"
NOT_INITIALISED = "Invalid device argument {}: did you call init?"


class Gpu:
    """The cards, as tests handle them. All sizes are bytes."""

    cards = 4

    def __init__(self) -> None:
        self.initialised = True
        self.capability = (9, 0)
        self.locked_for: list[int] = []
        """The current card at each call that locked host memory: CUDA makes itself at home on it."""

    def ask(self, what: str, card: int = 0) -> int:
        """`held`, `peak`, `reserved`, `total`, `neighbour`, `touches` of a card; `allocations`, `pinned` of all."""
        return int(torch.ops.pretended.ask(what, card))

    def tell(self, what: str, card: int = 0, value: int = 0) -> None:
        """Set `total`, `neighbour` (what other processes hold) or `pinned limit`; `reset peak`; `empty cache`."""
        torch.ops.pretended.tell(what, card, value)

    def counts(self) -> dict[str, int]:
        """What has been counted since `forget`: waits of the host by reason, bytes copied by direction, and so on."""
        rows = (line.split("\t") for line in torch.ops.pretended.report().splitlines())
        return {what: int(times) for what, times in rows}

    def waits(self) -> int:
        """How often the host has waited for a card since `forget`."""
        return sum(times for what, times in self.counts().items() if what.startswith("wait: "))

    def forget(self) -> None:
        """Count from zero."""
        self.tell("forget counts")

    def fail(self, allocation: int, times: int = 1) -> None:
        """Let `times` allocations fail, the first of them `allocation` from now (1 is the next one)."""
        torch.ops.pretended.fail(allocation, times)

    def mend(self) -> None:
        """Let allocations succeed, with all memory free that is not held here."""
        torch.ops.pretended.fail(0, 0)
        for card in range(self.cards):
            self.tell("total", card, 80 << 30)
            self.tell("neighbour", card, 0)
        self.tell("pinned limit", 0, 0)

    def free(self, card: int) -> int:
        """Free memory as the driver sees it: what the caching allocator keeps is taken."""
        return self.ask("total", card) - self.ask("neighbour", card) - self.ask("reserved", card)


gpu = Gpu()


def index_of(device: Any = None) -> int:
    """The card that `device` (None is the current one) means."""
    if isinstance(device, int):
        return device if device >= 0 else gpu.ask("current")
    found = torch.device("cuda" if device is None else device).index
    return gpu.ask("current") if found is None else found


def needs_init(device: Any = None) -> int:
    """The card of `device`; raises as CUDA does before anything has initialised it."""
    index = index_of(device)
    if not gpu.initialised:
        raise RuntimeError(NOT_INITIALISED.format(index))
    return index


def initialise() -> None:
    gpu.initialised = True


class Event:
    """A moment in a stream's work; all work is done when it is queued."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.recorded = False

    def record(self, stream: Stream | None = None) -> None:
        self.recorded = True

    def wait(self, stream: Stream | None = None) -> None:
        """Order a stream after the event."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        gpu.tell("wait")

    def elapsed_time(self, _other: Event) -> float:
        return 0.0


streams = threading.local()


class Stream:
    """A queue of work of one card. Made without one, it is the current card's: as with CUDA."""

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        self.device = torch.device("cuda", index_of(device))
        self.priority = priority
        stream_uses.add(self.device.index)

    def synchronize(self) -> None:
        gpu.tell("wait")

    def wait_stream(self, _other: Stream) -> None:
        """Order this one's work after what the other one has."""

    def wait_event(self, _event: Event) -> None:
        """Order this one's work after an event."""

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        return True

    def __enter__(self) -> Stream:
        self._before = getattr(streams, "current", {}).get(self.device.index), gpu.ask("current")
        streams.current = {**getattr(streams, "current", {}), self.device.index: self}
        gpu.tell("current", self.device.index)
        return self

    def __exit__(self, *_: object) -> None:
        stream, card = self._before
        streams.current[self.device.index] = stream
        gpu.tell("current", card)


stream_uses: set[int] = set()
"""Cards of which a stream was made or asked for."""

DEFAULTS: dict[int, Stream] = {}


def default_stream(device: Any = None) -> Stream:
    index = index_of(device)
    stream_uses.add(index)
    return DEFAULTS.setdefault(index, Stream(index))


def current_stream(device: Any = None) -> Stream:
    index = index_of(device)
    stream_uses.add(index)
    return getattr(streams, "current", {}).get(index) or default_stream(index)


@contextlib.contextmanager
def on_stream(stream: Stream | None) -> Iterator[None]:
    with stream or contextlib.nullcontext():
        yield


@contextlib.contextmanager
def on_device(device: Any) -> Iterator[None]:
    before = gpu.ask("current")
    gpu.tell("current", index_of(device))
    try:
        yield
    finally:
        gpu.tell("current", before)


def properties(device: Any = None) -> types.SimpleNamespace:
    total = gpu.ask("total", index_of(device))
    major, minor = gpu.capability
    return types.SimpleNamespace(name=NAME, total_memory=total, major=major, minor=minor, multi_processor_count=132)


def memory_info(device: Any = None) -> tuple[int, int]:
    initialise()
    index = index_of(device)
    return gpu.free(index), gpu.ask("total", index)


def fraction(part: float, device: Any = None) -> None:
    """`set_per_process_memory_fraction`: the rest is taken by a neighbour, so to speak."""
    index = index_of(device)
    gpu.tell("neighbour", index, int(gpu.ask("total", index) * (1 - part)))


def bfloat16(including_emulation: bool = True) -> bool:
    return including_emulation or gpu.capability >= (8, 0)


class Runtime:
    """What is used of `torch.cuda.cudart()`; 0 is success."""

    @staticmethod
    def cudaHostRegister(_address: int, _size: int, _flags: int) -> int:  # noqa: N802  # CUDA's name
        gpu.locked_for.append(gpu.ask("current"))
        return 0

    @staticmethod
    def cudaHostUnregister(_address: int) -> int:  # noqa: N802
        return 0


def replacements() -> dict[str, Callable[..., Any]]:
    """Functions of `torch.cuda` on the pretended cards."""
    ask, tell = gpu.ask, gpu.tell
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: gpu.initialised,
        "init": initialise,
        "cudart": Runtime,
        "_lazy_init": initialise,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: gpu.cards,
        "current_device": lambda: ask("current"),
        "set_device": lambda device: (initialise(), tell("current", index_of(device)))[0],
        "device": on_device,
        "mem_get_info": memory_info,
        "memory_allocated": lambda device=None: ask("held", index_of(device)),
        "memory_reserved": lambda device=None: ask("reserved", index_of(device)),
        "max_memory_allocated": lambda device=None: ask("peak", index_of(device)),
        "max_memory_reserved": lambda device=None: ask("peak", index_of(device)),
        "reset_peak_memory_stats": lambda device=None: tell("reset peak", needs_init(device)),
        "empty_cache": lambda: tell("empty cache"),
        "set_per_process_memory_fraction": fraction,
        "synchronize": lambda device=None: tell("wait"),
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: gpu.capability,
        "get_device_properties": properties,
        "is_bf16_supported": bfloat16,
        "Stream": Stream,
        "Event": Event,
        "stream": on_stream,
        "current_stream": current_stream,
        "default_stream": default_stream,
        "manual_seed": torch.ops.pretended.seed,
        "manual_seed_all": torch.ops.pretended.seed,
        "is_current_stream_capturing": lambda: False,
    }


def record_stream(tensor: torch.Tensor, _stream: Stream) -> None:
    if not tensor.is_cuda:
        raise RuntimeError("record_stream is for tensors of a card")


def install() -> Gpu:
    """Give this process its pretended cards. Not to be taken back."""
    for name, function in replacements().items():
        setattr(torch.cuda, name, function)
    torch.Tensor.record_stream = record_stream  # type: ignore[method-assign]
    return gpu
