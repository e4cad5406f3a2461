"""What musubi-tuner and sd-scripts have in common as sampling goes: they train a LoRA network with accelerate."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rushes._compat.accelerate import prepared_models, prepared_schedulers
from rushes.checkpoints.safetensors import HEADER_LENGTH_BYTES, METADATA, header_of
from rushes.errors import ConfigError
from rushes.integrations.result_logger import ResultLogger, log_exceptions
from rushes.training.cadence import Cadence
from rushes.training.flags import run_from_args
from rushes.training.sampler import TrainingSampler
from rushes.wire.results import JobState, SampleResult

logger = logging.getLogger("rushes")

WAIT_S = 300.0
"""How long the end of training waits for samples that a tracker is to show, unless `--rushes_wait` says otherwise."""

WAIT_POLL_S = 0.5

STATE_DIRECTORY = re.compile(r"-(step)?(\d{6,8})-state/?$")
"""`name-step00000500-state` and `name-000004-state`, where `--save_state` writes."""

SAVE_DTYPES = {"fp16": "float16", "bf16": "bfloat16"}
"""`--save_precision` in torch's words; else a LoRA is saved as it is trained, in float32."""


class Sidecar:
    """Samples for one trainer: takes its calls, hands its weights over, and gives its trackers what comes back.

    After `open` nothing raises: failures are warnings, and training goes on.
    """

    def __init__(self, sampler: TrainingSampler, wait_s: float) -> None:
        self.sampler = sampler
        self.wait_s = wait_s
        self._before = 0
        self._steps: dict[int, int] = {}
        """Step of a sample -> the trainer's own count, which starts again when a run is resumed."""

        self._loggers: list[ResultLogger] | None = None

    @classmethod
    def open(cls, args: argparse.Namespace, architecture: str, cadence: Cadence) -> Sidecar:
        """A sidecar for a trainer's parsed flags.

        Raises:
            PromptError, ArchitectureError, ConfigError: the prompt file or the flags are wrong.
        """
        given = vars(args)
        run = run_from_args(given, architecture)
        sampler = TrainingSampler(run, given["sample_prompts"], cadence, url=given.get("rushes_url"))
        wait_s = given.get("rushes_wait")
        logger.info("rushes: samples of run %s (%s) are made outside this process", run.name, architecture)
        if cadence.at_first and given.get("network_weights") and not given.get("resume"):
            logger.warning("rushes: --sample_at_first shows the base model, without --network_weights")
        return cls(sampler, WAIT_S if wait_s is None else wait_s)

    def resumed(self, accelerator: Any, resume: str | None) -> None:
        """Count on from where a resumed run had come to: these trainers begin at step 0 again."""
        if resume:
            with log_exceptions("the step that this run is resumed from is unknown"):
                self._before = steps_done(accelerator, resume)
                logger.info("rushes: resumed; samples are counted from step %d on", self._before)

    def sample(
        self,
        accelerator: Any,
        args: argparse.Namespace,
        *,
        step: int,
        epoch: int | None,
        save: Callable[[int, str], None] | None = None,
    ) -> None:
        """Hand over what is trained as it is now, if it is due by the trainer's own count.

        Args:
            step: optimizer steps that this process has done.
            epoch: epochs it has done, at the end of one; else None.
            save: writes it to a path, given the steps of all processes before this one as well; else the LoRA network
                that accelerate has prepared is saved.
        """
        with log_exceptions(f"step {step} is not sampled"):
            total = self._before + step
            # At the end of an epoch trainers ask again for a step that they have just sampled.
            if total in self._steps or not self.sampler.due(step=step, epoch=epoch):
                return
            self._steps[total] = step
            if save is None:
                save = functools.partial(save_network, trained_network(accelerator) if total else None, args)
            # The epochs of the sessions before are not known: such samples are named by their step.
            epoch = None if self._before else epoch
            self.sampler.submit(step=total, epoch=epoch, weights=functools.partial(save, total) if total else None)
            logger.info("rushes: step %d is handed over", total)
        self.report(accelerator)

    def report(self, accelerator: Any) -> None:
        """Log what has come back since the last call, and show it in the trainer's own trackers. Never blocks."""
        with log_exceptions("samples are not shown"):
            if self._loggers is None and accelerator.trackers:
                self._loggers = [ResultLogger(tracker) for tracker in accelerator.trackers]
            for result in self.sampler.results():
                self._show(result)

    def _show(self, result: SampleResult) -> None:
        if result.state is JobState.DONE:
            logger.info("rushes: step %d, prompt %d: %s", result.step, result.prompt_index, result.path)
        else:
            reason = result.error.message if result.error else result.state.value
            logger.warning("rushes: step %d, prompt %d has no sample: %s", result.step, result.prompt_index, reason)
        own_step = self._steps.get(result.step)  # None: handed over by a process before this one
        for shown_in in self._loggers or () if own_step is not None else ():
            with log_exceptions("a sample is not shown"):
                shown_in.log(result.model_copy(update={"step": own_step}))

    def close(self, accelerator: Any = None, *, failed: bool = False) -> None:
        """End the sidecar. If a tracker is to show samples that are not here yet, wait for them, but not for ever."""
        with log_exceptions("the last samples are not shown"):
            if accelerator is not None:
                if self._loggers and not failed:
                    self._wait(accelerator)
                self.report(accelerator)
        for shown_in in self._loggers or ():
            with log_exceptions("a tracker is not closed"):
                shown_in.close()
        with log_exceptions("the hand-over is not ended"):
            self.sampler.close(wait=False)

    def _wait(self, accelerator: Any) -> None:
        deadline = time.monotonic() + self.wait_s
        if missing := self.sampler.pending():
            logger.info("rushes: waiting up to %.0f s for %d samples (--rushes_wait)", self.wait_s, missing)
        with contextlib.suppress(KeyboardInterrupt):
            while self.sampler.pending() and time.monotonic() < deadline:
                time.sleep(WAIT_POLL_S)
                self.report(accelerator)
        if missing := self.sampler.pending():
            logger.warning("rushes: %d samples will come too late for this run's trackers", missing)


class NotLoaded:
    """Stands in for a model that is not loaded; accepts the calls that trainers make on one they only keep."""

    def __init__(self, name: str) -> None:
        self._name = name

    def requires_grad_(self, requires_grad: bool = True) -> NotLoaded:
        """Nothing to freeze."""
        return self

    def eval(self) -> NotLoaded:
        """Nothing to switch."""
        return self

    def to(self, *_where: Any, **_how: Any) -> NotLoaded:
        """Nothing to move."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"the {self._name} is not loaded, since samples are made by Rushes; .{name} was asked for")


def trained_network(accelerator: Any) -> Any:
    """The LoRA network that is being trained, without what accelerate wraps it in.

    Raises:
        ConfigError: none of the models that accelerate prepared is one.
    """
    for model in reversed(prepared_models(accelerator)):
        network = accelerator.unwrap_model(model)
        if hasattr(network, "save_weights"):
            return network
    raise ConfigError("accelerate has prepared no network with save_weights; which one is trained?")


def save_network(network: Any, args: argparse.Namespace, step: int, path: str) -> None:
    """Save a network as the trainer saves its checkpoints, but without the time of day: the same weights of the same
    step make the same file, hence the same sample.
    """
    import torch  # pyright: ignore[reportMissingImports] - the trainer's

    dtype: Any = getattr(torch, SAVE_DTYPES.get(args.save_precision or "", "float32"))  # pyright: ignore[reportUnknownArgumentType]
    metadata = {
        "ss_network_module": str(args.network_module),
        "ss_network_dim": str(args.network_dim),
        "ss_network_alpha": str(args.network_alpha),
        "ss_output_name": str(args.output_name),
        "ss_steps": str(step),
    }
    network.save_weights(path, dtype, metadata)
    sort_metadata(path)


def sort_metadata(path: str) -> None:
    """Put a file's metadata in order: safetensors writes them in another one each time. The file keeps its length."""
    with Path(path).open("r+b") as file:
        header = header_of(path, file)
        length = file.tell() - HEADER_LENGTH_BYTES
        about: dict[str, str] = header.pop(METADATA, None) or {}
        ordered = {METADATA: dict(sorted(about.items())), **header}
        text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
        if about and len(text) <= length:
            file.seek(HEADER_LENGTH_BYTES)
            file.write(text.ljust(length))


def steps_done(accelerator: Any, resume: str) -> int:
    """Optimizer steps that a loaded state has behind it: by the learning rate's scheduler, else by the state's name.

    Raises:
        ConfigError: neither tells.
    """
    for wrapped in prepared_schedulers(accelerator):
        steps = getattr(getattr(wrapped, "scheduler", wrapped), "last_epoch", None)
        if isinstance(steps, int):
            per_update = 1 if accelerator.split_batches else accelerator.num_processes
            return steps // per_update
    named = STATE_DIRECTORY.search(resume)
    if named and named[1]:
        return int(named[2])
    raise ConfigError(f"neither its scheduler nor its name tells ({resume}); samples are counted from 0")
