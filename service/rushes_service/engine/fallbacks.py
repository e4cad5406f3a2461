"""What is tried when memory runs out: the stage that failed is repeated, one rung higher.

    load      as asked -> again, with all other memory freed -> transformer offloaded block by block
    lora      the same
    encode    as asked -> base model on the CPU meanwhile -> text and image encoders on the CPU
    denoise   as asked -> again, with all other memory freed -> transformer offloaded block by block
    decode    as asked -> smaller chunks -> base model on the CPU meanwhile -> tiles -> smaller tiles

What changes no pixel comes before what does. A rung that worked is where the next sample of the same shape begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from rushes.errors import OutOfMemory
from rushes.wire.jobs import VaeOptions

Output = Literal["exact", "exact but for rounding", "approximate"]
"""How the output of a stage compares with that of the first rung."""

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
        aside: the transformer is on the CPU meanwhile.
        encoders_on_cpu: text and image encoders run there.
        offload: from now on, each block of the transformer is on the device only while it computes.
    """

    name: str
    output: Output = "exact"
    vae: VaeOptions | None = None
    aside: bool = False
    encoders_on_cpu: bool = False
    offload: bool = False


AS_ASKED = Fallback("as asked")
ENCODE = (
    AS_ASKED,
    Fallback("base model on the CPU meanwhile", aside=True),
    Fallback("encoders on the CPU", "exact but for rounding", encoders_on_cpu=True),
)
LOAD = LORA = DENOISE = (
    AS_ASKED,
    Fallback("again, with other memory freed"),
    Fallback("transformer offloaded block by block", offload=True),
)


def decode_rungs(asked: VaeOptions, width: int, height: int, *, chunked: bool) -> tuple[Fallback, ...]:
    """Ways to decode a picture of `width` x `height` pixels; `chunked` if the VAE can convolve strips."""
    rungs = [AS_ASKED]
    vae = asked
    if chunked and (asked.chunk_size is None or asked.chunk_size > CHUNK):
        vae = asked.model_copy(update={"chunk_size": CHUNK})
        rungs.append(Fallback(f"chunks of {CHUNK} columns", vae=vae))
    rungs.append(Fallback("base model on the CPU meanwhile", vae=vae, aside=True))
    present = asked.spatial_tile_sample_min_size or (TILES[0] if asked.tiling else max(width, height))
    for size in TILES:
        if size < min(present, max(width, height)):
            tiled = vae.model_copy(update={"tiling": True, "spatial_tile_sample_min_size": size})
            rungs.append(Fallback(f"tiles of {size} pixels", "approximate", vae=tiled, aside=True))
    return tuple(rungs)


@dataclass
class MemoryFallbacks:
    """Remembers, for each stage and shape, the rung that worked."""

    _reached: dict[tuple[object, ...], int] = field(default_factory=dict)

    @property
    def climbed(self) -> bool:
        """True once memory has run out anywhere."""
        return bool(self._reached)

    def ascent(self, stage: str, shape: tuple[object, ...], rungs: Sequence[Fallback]) -> StageAttempt:
        """A climb from the rung that this stage and shape were last seen on."""
        return StageAttempt(
            self, stage, shape, tuple(rungs), min(self._reached.get((stage, *shape), 0), len(rungs) - 1)
        )

    def remember(self, ascent: StageAttempt) -> None:
        """Begin there next time."""
        self._reached[(ascent.stage, *ascent.shape)] = ascent.at


@dataclass
class StageAttempt:
    """One stage of one sample on its way up."""

    ladder: MemoryFallbacks
    stage: str
    shape: tuple[object, ...]
    rungs: tuple[Fallback, ...]
    at: int

    @property
    def rung(self) -> Fallback:
        """What to try."""
        return self.rungs[self.at]

    def higher(self, error: OutOfMemory) -> None:
        """Step up, or raise `error` at the top."""
        if self.at + 1 >= len(self.rungs):
            raise error
        self.at += 1
        self.ladder.remember(self)

    def climb(self, attempt: Callable[[Fallback], T], free: Callable[[], None]) -> T:
        """What `attempt` returns on the first rung where memory suffices; `free` is called before each further one.

        Raises:
            OutOfMemory: on the highest rung, too.
        """
        while True:
            try:
                return attempt(self.rung)
            except OutOfMemory as error:
                self.higher(error)
            # Only here is the error gone, and with it what the failed attempt held.
            free()

    def facts(self) -> dict[str, str] | None:
        """What the receipt says: nothing for a stage that was done as asked."""
        return {"rung": self.rung.name, "output": self.rung.output} if self.at else None

    def warning(self) -> str | None:
        """What a person should know of the output."""
        if self.rung.output != "approximate":
            return None
        return f"memory ran out: the {self.stage} stage used {self.rung.name}, its output is {self.rung.output}"
