"""`TrainingSampler`: the three lines that a trainer adds."""

from __future__ import annotations

import argparse
import logging
import operator
import os
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsIndex

from rushes._paths import SNAPSHOT_DIR, absolute
from rushes.checkpoints.weights import OpenWeights, Weights, secure
from rushes.errors import ConfigError
from rushes.prompts.files import PromptLine, read_prompts
from rushes.submission.build import Run, check_prompts
from rushes.training.cadence import Cadence
from rushes.training.flags import run_from_args
from rushes.training.outbox import HandOff, Outbox
from rushes.wire.jobs import LABEL, Keep
from rushes.wire.results import SampleResult

logger = logging.getLogger("rushes")

WAIT_POLL_S = 0.05


class TrainingSampler:
    """Samples a training run's checkpoints elsewhere, without holding the training up.

    Made once, before training; mistakes in the prompt file or the flags are raised here. Afterwards nothing raises:
    what goes wrong with a sample is logged, recorded, and returned by `results`.

    Args:
        run: what all samples share, see `Run`.
        prompts: path of the prompt file, read anew at each submission, so it can be edited during training.
        cadence: when `due` says yes.
        url: Redis URL; else `RUSHES_REDIS_URL`, else a server on this machine.
        lenient: unknown prompt options are warnings.

    Raises:
        PromptError, ArchitectureError, ConfigError: before training has begun.
    """

    def __init__(
        self,
        run: Run,
        prompts: str | Path,
        cadence: Cadence,
        *,
        url: str | None = None,
        lenient: bool = False,
        enabled: bool = True,
    ) -> None:
        self.run = run
        self.cadence = cadence
        self.prompts = absolute(prompts)
        self.lenient = lenient
        self._url = url
        self._snapshots = Path(run.output_dir) / SNAPSHOT_DIR
        self._outbox: Outbox | None = None
        if enabled:
            lines = list(self._read_prompts())
            check_prompts(run, lines)
            self._outbox = Outbox(run, self._read_prompts, url, lines)

    @classmethod
    def from_args(
        cls,
        args: argparse.Namespace,
        *,
        architecture: str,
        model: str | None = None,
        run: str | None = None,
        keep: Keep = "all",
    ) -> TrainingSampler:
        """A sampler from the trainer's own parsed arguments (see `add_sampling_arguments`).

        Without `--sample_prompts`, and on every process of a distributed run but the first, it is switched off:
        `due` is always False and `submit` does nothing.

        Args:
            architecture: the model family, `wan2.1-t2v` for example.
            model: a diffusers directory or hub id; else `--rushes_model`, else the single-file flags.
            run: a name for the run; else made from `--output_name` and `--output_dir`.
            keep: "latest" drops queued samples of older checkpoints when the worker lags behind.
        """
        given: dict[str, Any] = vars(args)
        prompts = given.get("sample_prompts")
        return cls(
            run_from_args(given, architecture, model=model, name=run, keep=keep),
            prompts or "",
            Cadence(
                given.get("sample_every_n_steps"),
                given.get("sample_every_n_epochs"),
                bool(given.get("sample_at_first")),
            ),
            url=given.get("rushes_url"),
            enabled=bool(prompts) and (os.environ.get("RANK") or "0") == "0",
        )

    def due(self, *, step: int, epoch: int | None = None) -> bool:
        """True when this step (or, with `epoch`, this end of an epoch) is to be sampled."""
        return self._outbox is not None and self.cadence.due(step=step, epoch=epoch)

    def submit(self, *, step: int, epoch: int | None = None, weights: Weights | None = None) -> None:
        """Hand the samples of one checkpoint over and return at once.

        When this returns, the weights are safe: the trainer may train on, and rotate or delete the file. One that is
        overwritten in place before its samples are made is recognised, and fails them.

        Args:
            step: optimizer steps done. Step 0 is the base model; `weights` are not looked at.
            epoch: epochs done, when this is the end of one; it then names the files.
            weights: a path, a callable that writes a `.safetensors` file or an adapter's directory to the path it is
                given, a state dict of tensors (with its alpha: `LoraState`), both files of Wan2.2 (`ExpertPair`), or
                None for the base model.

        Raises:
            ConfigError: `step` or `weights` is not of these kinds. Nothing else is ever raised.
        """
        outbox = self._outbox
        if outbox is None:
            return
        step = whole_number("step", step)
        epoch = None if epoch is None else whole_number("epoch", epoch)
        secured: OpenWeights | Exception | None = None
        if step and weights is not None:
            try:
                secured = secure(weights, self._snapshots)
            except ConfigError:
                raise
            except Exception as error:  # noqa: BLE001 - the trainer's own save, or the disk: recorded, never raised
                secured = error
        outbox.put(HandOff(step, epoch, secured))

    def labelled(self, label: str) -> TrainingSampler:
        """A sampler beside this one, for other weights of the same steps: averaged ones (EMA), for example.

        Its samples belong to the same run, have `label` in their files' names and over their columns in the gallery,
        and come back from `results` of either sampler. Close both.

        Raises:
            ConfigError: a label is 1 to 32 letters, digits, dots or hyphens.
        """
        if not re.fullmatch(LABEL, label):
            raise ConfigError(f"label {label!r}: must be 1 to 32 letters, digits, dots or hyphens")
        run = replace(self.run, label=label)
        enabled = self._outbox is not None
        return TrainingSampler(run, self.prompts, self.cadence, url=self._url, lenient=self.lenient, enabled=enabled)

    def results(self) -> list[SampleResult]:
        """Samples of this run that ended since the last call, in that order. Never blocks."""
        return self._outbox.results() if self._outbox else []

    def pending(self) -> int:
        """How many samples that this process asked for are still to end; a hand-off that is on its way counts as one.

        0 while Redis is away: nothing can come back then.
        """
        return self._outbox.pending() if self._outbox else 0

    def close(self, wait: bool = False, timeout: float | None = None) -> list[SampleResult]:
        """End the sampler. Samples that are queued are still made.

        Args:
            wait: stay until every sample that this process handed over has ended.
            timeout: at most this many seconds of waiting; None waits for ever.

        Returns:
            The results that had not been fetched yet.
        """
        if self._outbox is None:
            return []
        outbox = self._outbox
        deadline = None if timeout is None else time.monotonic() + timeout
        if wait:
            outbox.flush(timeout)
        while wait and outbox.expected and (deadline is None or time.monotonic() < deadline):
            time.sleep(WAIT_POLL_S)
        outbox.close()
        self._outbox = None
        return outbox.results()

    def _read_prompts(self) -> Iterable[PromptLine]:
        return read_prompts(self.prompts, lenient=self.lenient)


def whole_number(name: str, value: SupportsIndex) -> int:
    """A step or an epoch as a plain whole number.

    Raises:
        ConfigError: it is none, or below zero.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} must be a whole number, not {value!r}") from None
    if number < 0:
        raise ConfigError(f"{name} {number}: must be 0 or more")
    return number
