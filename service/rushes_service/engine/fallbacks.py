"""Fallbacks when memory runs out: the stage that failed is repeated in a way that needs less.

    load      as asked -> again, with all other memory freed -> transformer offloaded block by block
    lora      the same fallbacks as load
    encode    as asked -> base model on the CPU meanwhile -> text and image encoders on the CPU
    denoise   as asked -> again, with all other memory freed -> transformer offloaded block by block
    decode    as asked -> smaller chunks -> base model on the CPU meanwhile -> tiles -> smaller tiles

Fallbacks that change no pixel come first. The next sample of the same shape begins with the fallback that worked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from rushes.errors import OutOfMemory
from rushes.wire.jobs import VaeOptions

Output = Literal["exact", "exact but for rounding", "approximate"]
"""How the output of a fallback compares with that of the default."""

CHUNK = 32
"""Columns that HunyuanVideo's VAE convolves at a time; musubi-tuner's advice for little memory."""

TILES = (256, 128)
"""Pixels, from diffusers' own default downwards. Smaller ones show."""

T = TypeVar("T")


@dataclass(frozen=True)
class Fallback:
    """One way to do a stage.

    Args:
        vae: how to decode; None is as asked.
        transformer_on_cpu: the transformer is on the CPU meanwhile.
        encoders_on_cpu: text and image encoders run there.
        offload: from now on, each block of the transformer is on the device only while it computes.
    """

    name: str
    output: Output = "exact"
    vae: VaeOptions | None = None
    transformer_on_cpu: bool = False
    encoders_on_cpu: bool = False
    offload: bool = False


DEFAULT = Fallback("as asked")
ENCODE = (
    DEFAULT,
    Fallback("base model on the CPU meanwhile", transformer_on_cpu=True),
    Fallback("encoders on the CPU", "exact but for rounding", encoders_on_cpu=True),
)
LOAD = LORA = DENOISE = (
    DEFAULT,
    Fallback("again, with other memory freed"),
    Fallback("transformer offloaded block by block", offload=True),
)


def decode_fallbacks(asked: VaeOptions, width: int, height: int, *, chunked: bool) -> tuple[Fallback, ...]:
    """Ways to decode a picture of `width` x `height` pixels; `chunked` if the VAE can convolve in strips."""
    fallbacks = [DEFAULT]
    vae = asked
    if chunked and (asked.chunk_size is None or asked.chunk_size > CHUNK):
        vae = asked.model_copy(update={"chunk_size": CHUNK})
        fallbacks.append(Fallback(f"chunks of {CHUNK} columns", vae=vae))
    fallbacks.append(Fallback("base model on the CPU meanwhile", vae=vae, transformer_on_cpu=True))
    present = asked.spatial_tile_sample_min_size or (TILES[0] if asked.tiling else max(width, height))
    for size in TILES:
        if size < min(present, max(width, height)):
            tiled = vae.model_copy(update={"tiling": True, "spatial_tile_sample_min_size": size})
            fallbacks.append(Fallback(f"tiles of {size} pixels", "approximate", vae=tiled, transformer_on_cpu=True))
    return tuple(fallbacks)


@dataclass
class MemoryFallbacks:
    """Remembers the fallback that worked, by stage and shape."""

    _remembered: dict[tuple[object, ...], int] = field(default_factory=dict)

    @property
    def used(self) -> bool:
        """True once memory has run out anywhere."""
        return bool(self._remembered)

    def attempt(self, stage: str, shape: tuple[object, ...], fallbacks: Sequence[Fallback]) -> StageAttempt:
        """An attempt that begins with the fallback that this stage and shape last needed."""
        return StageAttempt(
            self, stage, shape, tuple(fallbacks), min(self._remembered.get((stage, *shape), 0), len(fallbacks) - 1)
        )

    def remember(self, attempt: StageAttempt) -> None:
        """Begin with the current fallback of `attempt` next time."""
        self._remembered[(attempt.stage, *attempt.shape)] = attempt.at


@dataclass
class StageAttempt:
    """One stage of one sample: the fallbacks it may use and the current one."""

    memory: MemoryFallbacks
    stage: str
    shape: tuple[object, ...]
    fallbacks: tuple[Fallback, ...]
    at: int

    @property
    def fallback(self) -> Fallback:
        """The fallback to try now."""
        return self.fallbacks[self.at]

    def next_fallback(self, error: OutOfMemory) -> None:
        """Go on to the next fallback; raises `error` if there is none."""
        if self.at + 1 >= len(self.fallbacks):
            raise error
        self.at += 1
        self.memory.remember(self)

    def run(self, work: Callable[[Fallback], T], free: Callable[[], None]) -> T:
        """Return the result of `work` with the first fallback that fits; call `free` before each further one.

        Raises:
            OutOfMemory: the last fallback ran out of memory, too.
        """
        while True:
            try:
                return work(self.fallback)
            except OutOfMemory as error:
                self.next_fallback(error)
            # Outside the except block the error is gone, and with it the tensors of the failed attempt.
            free()

    def facts(self) -> dict[str, str] | None:
        """Facts for the receipt; None if the default fitted. The key is called `rung` since the first receipts."""
        return {"rung": self.fallback.name, "output": self.fallback.output} if self.at else None

    def warning(self) -> str | None:
        """Warns of an approximate output."""
        if self.fallback.output != "approximate":
            return None
        return f"memory ran out: the {self.stage} stage used {self.fallback.name}, its output is {self.fallback.output}"
