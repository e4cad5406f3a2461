"""Drafts: steps of which only the first block is computed, by diffusers' FirstBlockCache.

Where the first block changes the latents nearly as it did at the last whole step, the rest is taken to change them as
it did then. Approximate. The cache is in the transformer only while a draft is denoised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from diffusers import FirstBlockCacheConfig
from torch import nn

from rushes.errors import ArchitectureError
from rushes.families.parameters import SampleParameters
from rushes.wire.jobs import SampleJob
from rushes.wire.models import ModelSpec
from rushes_service.runtime.compat_diffusers_models import forget_hooks, with_first_block_cache

TECHNIQUE = "FirstBlockCache"

DRAFTED = frozenset(
    {
        "CogVideoXTransformer3DModel",
        "FluxTransformer2DModel",
        "HunyuanVideoFramepackTransformer3DModel",
        "HunyuanVideoTransformer3DModel",
        "LTXVideoTransformer3DModel",
        "QwenImageTransformer2DModel",
        "WanTransformer3DModel",
    }
)
"""Transformers that were drafted by our tests. Others may take the cache and add things between their blocks, WanVACE's
for example, which would then be added twice."""

FEWEST_BLOCKS = 2
"""The first decides, the last tells what is kept."""


def check_transformers(model: ModelSpec, transformers: Sequence[nn.Module]) -> None:
    """Raise `ArchitectureError` unless all transformers of a loaded model can be drafted."""
    for transformer in transformers:
        if reason := undraftable(transformer):
            raise ArchitectureError(f"{model.label} cannot be drafted: {reason}; leave the draft out")


def undraftable(transformer: nn.Module) -> str | None:
    """Why a transformer cannot be drafted; None if it can."""
    name = type(transformer).__name__
    if DRAFTED.isdisjoint(kind.__name__ for kind in type(transformer).__mro__):
        return f"{TECHNIQUE} is not used with {name}, only with {', '.join(sorted(DRAFTED))}"
    count = len(with_first_block_cache(transformer))
    return f"its transformer has {count} blocks of {FEWEST_BLOCKS} at least" if count < FEWEST_BLOCKS else None


class Draft:
    """How one sample is drafted, if it is asked for as a draft; else all of this does nothing.

    Args:
        threshold: a step is cut short if its first block changed by less than this share; None is an exact sample.
        run_steps: steps of one way from noise to latents; a clip made in sections takes several.
    """

    def __init__(self, threshold: float | None, run_steps: int) -> None:
        self.asked = threshold is not None
        self._config = FirstBlockCacheConfig(threshold=threshold or 0.0)
        self._run_steps = run_steps
        self._transformers: Sequence[Any] = ()
        self._computed = 0  # calls of last blocks
        self._short: list[bool] = []  # of each call of a transformer in this step: was it cut short?
        self._steps: list[list[bool]] = []

    @classmethod
    def of(cls, job: SampleJob, parameters: SampleParameters) -> Draft:
        """The draft that a job asks for, or none."""
        return cls(job.draft, parameters.sample_steps)

    @contextlib.contextmanager
    def active(self, transformers: Sequence[nn.Module]) -> Iterator[None]:
        """Inside, `transformers` have the cache, and `step_ended` has to be called after each step."""
        self._transformers = transformers if self.asked else ()
        with contextlib.ExitStack() as stack:
            for transformer in self._transformers:
                stack.enter_context(self._cached(transformer))
            yield

    @contextlib.contextmanager
    def _cached(self, transformer: Any) -> Iterator[None]:
        blocks = with_first_block_cache(transformer)
        own = [(module, vars(module).get("forward")) for module in (transformer, *blocks)]
        try:
            blocks[-1].forward = self._counted(blocks[-1].forward)
            transformer.enable_cache(self._config)
            transformer.forward = self._in_context(transformer)
            yield
        finally:
            for module, forward in own:
                vars(module).pop("forward", None)
                if forward is not None:
                    module.forward = forward
            forget_hooks(blocks)
            if getattr(transformer, "is_cache_enabled", False):
                transformer.disable_cache()

    def _counted(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A last block's `forward`; it is not called where a step is cut short."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._computed += 1
            return forward(*args, **kwargs)

        return counted

    def _in_context(self, transformer: Any) -> Callable[..., Any]:
        """A transformer's `forward`, which compares each call with that in the same place of the steps before.

        Not all samplers tell the cache which call is for the prompt, and which for the negative one.
        """
        forward = transformer.forward

        def called(*args: Any, **kwargs: Any) -> Any:
            computed = self._computed
            with transformer.cache_context(f"call {len(self._short)}"):
                made = forward(*args, **kwargs)
            self._short.append(computed == self._computed)
            return made

        return called

    def step_ended(self, done: int, total: int) -> None:
        """After each step: `done` of `total`, over all sections."""
        self._steps.append(self._short)
        self._short = []
        if done % self._run_steps == 0 and done < total:  # the next section begins with noise again
            for transformer in self._transformers:
                transformer.disable_cache()
                transformer.enable_cache(self._config)

    def facts(self) -> dict[str, Any]:
        """What the receipt says about it. A skipped step is one whose calls of a transformer were all cut short."""
        return {"draft": self._counts()} if self.asked else {}

    def _counts(self) -> dict[str, Any]:
        calls = [short for step in self._steps for short in step]
        return {
            "technique": TECHNIQUE,
            "threshold": self._config.threshold,
            "steps": len(self._steps),
            "skipped_steps": sum(bool(step) and all(step) for step in self._steps),
            "calls": len(calls),
            "skipped_calls": sum(calls),
        }

    def warning(self) -> str:
        """What a person has to know of it; nothing of an exact sample."""
        if not self.asked:
            return ""
        facts = self._counts()
        return (
            f"draft, threshold {facts['threshold']:g}: approximate, {facts['skipped_steps']} of {facts['steps']} steps "
            "were skipped; not to judge a LoRA by"
        )
