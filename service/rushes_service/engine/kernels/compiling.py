"""`--compile`: the transformer's repeated blocks as compiled graphs.

Regional compilation, as diffusers' `compile_repeated_blocks` has it: one graph serves all blocks of a kind, and with
them every LoRA, strength and prompt, since weights are its inputs; sizes are symbols in it. A graph is built in a
thread of its own, on a copy of one block, while samples go on without it: no sample waits for one, and what cannot be
compiled stays as it is.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import queue
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rushes.errors import first_line
from rushes_service.engine.loaded import LoadedModel
from rushes_service.runtime.compat_diffusers_models import active_attention, repeated_blocks

logger = logging.getLogger("rushes.worker")

COMPILED_DIR = "compiled"
"""Below the cache directory: graphs as TorchInductor keeps them, found again by the next process."""

MOST_GRAPHS = 8
"""Of one kind of block: torch compiles no more for one function either (its `recompile_limit`)."""

Key = tuple[Hashable, ...]
"""What a graph depends on, the kind of block first."""

BUILDING, READY, FAILED = "building", "ready", "failed"


def keep_graphs(cache_dir: Path) -> None:
    """Let TorchInductor keep its graphs below `cache_dir`; to be called before torch compiles anything.

    `TORCHINDUCTOR_CACHE_DIR` overrides it.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir / COMPILED_DIR))


class BlockCompiler:
    """Compiles the blocks of one engine's models, whichever is loaded.

    `eager` keeps all of them as they are, for models whose layers have hooks.
    """

    def __init__(self) -> None:
        self.eager = False
        self.orders = 0
        """Graphs that were ordered so far."""

        self._states: dict[Key, str] = {}
        self._full: set[Hashable] = set()
        self._calls = {True: 0, False: 0}
        self._orders: queue.SimpleQueue[tuple[Key, Callable[[], None]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def install(self, transformers: Iterable[nn.Module]) -> None:
        """Have the blocks of loaded transformers run by graphs as soon as there are some."""
        for transformer in transformers:
            kinds = repeated_blocks(transformer)
            blocks = [module for module in transformer.modules() if type(module).__name__ in kinds]
            if not blocks:
                logger.warning("--compile: %s has no blocks that can be compiled", type(transformer).__name__)
            for block in blocks:
                block.forward = CompiledBlock(self, block)

    @contextlib.contextmanager
    def counting(self, *, eager: bool) -> Iterator[dict[str, Any]]:
        """Around the denoising of a sample; what is given says afterwards, for its receipt, how it was made."""
        facts: dict[str, Any] = {}
        self.eager, self._calls = eager, {True: 0, False: 0}
        yield facts
        calls = sum(self._calls.values())
        facts["compiled"] = {"block_calls": calls, "by_graph": self._calls[True]}

    def ready(self, key: Key, build: Callable[[], Callable[[], None]]) -> bool:
        """True if a graph is there. The first that asks for one orders it.

        Args:
            key: what a graph depends on.
            build: prepares the building, which is then done in the background.
        """
        state = None if self.eager else self._states.get(key, "new")
        if state == "new":
            self._begin(key, build)
        self._calls[state == READY] += 1
        return state == READY

    def _begin(self, key: Key, build: Callable[[], Callable[[], None]]) -> None:
        """Order a graph, unless there are enough of its kind."""
        if sum(other[0] == key[0] for other in self._states) >= MOST_GRAPHS:
            if key[0] not in self._full:
                self._full.add(key[0])
                logger.warning("--compile: %d graphs of %s are enough; other shapes run without", MOST_GRAPHS, key[0])
            return
        self.orders += 1
        self._states[key] = BUILDING
        try:
            self._order(key, build())
        except Exception as error:  # noqa: BLE001 - no memory for the copies, say: the sample goes on
            self._failed(key, error)

    def _failed(self, key: Key, error: Exception) -> None:
        logger.warning("--compile: no graph of %s: %s", key[0], first_line(error))
        self._states[key] = FAILED

    def wait(self) -> None:
        """Until all graphs that are ordered are built, or have failed."""
        done = threading.Event()
        self._order(("no block",), done.set)
        done.wait()

    def _order(self, key: Key, build: Callable[[], None]) -> None:
        if self._thread is None:
            # A daemon: a worker that ends does not wait for a graph.
            self._thread = threading.Thread(target=self._build_all, name="compile", daemon=True)
            self._thread.start()
        self._orders.put((key, build))

    def _build_all(self) -> None:
        while True:
            key, build = self._orders.get()
            try:
                build()
            except Exception as error:  # noqa: BLE001 - whatever a compiler raises: samples go on without
                self._failed(key, error)
            else:
                self._states[key] = READY
            del build  # and with it a block's copy


def compiling(
    compiler: BlockCompiler | None, loaded: LoadedModel, *, eager: bool = False
) -> contextlib.AbstractContextManager[dict[str, Any]]:
    """Around the denoising of a sample, see `BlockCompiler.counting`. Layers with hooks are left as they are: those of
    an offloaded transformer, of one in float8, and those whose LoRA is beside the weights; with `eager`, all are.
    """
    if compiler is None:
        return contextlib.nullcontext({})
    spec = loaded.spec
    hooks = eager or loaded.offloaded or spec.fp8_base or spec.fp8_scaled or loaded.loras.merger.hooked
    return compiler.counting(eager=hooks)


class CompiledBlock:
    """Stands in for a block's `forward`: by its graph if there is one, else as it was."""

    def __init__(self, compiler: BlockCompiler, block: nn.Module) -> None:
        self._compiler = compiler
        self._block = block
        self._plain = block.forward
        self._graph = torch.compile(block.forward, dynamic=True)
        # Two models of a kind may differ in their sizes: a graph knows those of the weights.
        sizes = tuple((tuple(tensor.shape), tensor.dtype, tensor.device) for tensor in block.parameters())
        self._kind = (type(block).__name__, hash(sizes))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key = (*self._kind, signature(args), signature(kwargs), *modes())
        if self._compiler.ready(key, lambda: self._builder(args, kwargs)):
            return self._graph(*args, **kwargs)
        return self._plain(*args, **kwargs)

    def _builder(self, args: Any, kwargs: Any) -> Callable[[], None]:
        """What builds the graph for such arguments, apart from this block and from whoever goes on with it."""
        # This very object is a part of the block; its copy has the `forward` of its class.
        twin = copy.deepcopy(self._block, {id(self): None})
        del twin.forward
        args, kwargs = copied(args), copied(kwargs)
        place = next(twin.parameters()).device
        grad, inference, threads = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_num_threads()

        def build() -> None:
            torch.set_num_threads(threads)  # of this thread; a graph is for one number
            stack = torch.cuda.device(place) if place.type == "cuda" else contextlib.nullcontext()
            with stack, torch.inference_mode(inference), torch.set_grad_enabled(grad):
                torch.compile(twin.forward, dynamic=True)(*args, **kwargs)

        return build


def modes() -> tuple[Hashable, ...]:
    """What a graph depends on beside its arguments."""
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_num_threads(), active_attention()


def signature(value: Any) -> Hashable:
    """What a graph with sizes as symbols depends on: a size of 1 is none, and neither are 0 and 1."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.device, value.is_contiguous(), tuple(size == 1 for size in value.shape)
    if isinstance(value, (tuple, list)):
        return tuple(signature(part) for part in value)
    if isinstance(value, dict):
        return tuple((name, signature(part)) for name, part in sorted(value.items()))
    if value is None or isinstance(value, (bool, str, float)):
        return value
    return (type(value).__name__, value if isinstance(value, int) and value in (0, 1) else None)


def copied(value: Any) -> Any:
    """Arguments that nobody changes meanwhile."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, (tuple, list)):
        return type(value)(copied(part) for part in value)
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}
    return value
