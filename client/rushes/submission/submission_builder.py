"""From a hand-off to a submission. What is wrong with the weights or the prompt file becomes failed samples, which are
seen in the gallery and in `results`, and never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from rushes._files import make_output_directory
from rushes._paths import SNAPSHOT_DIR
from rushes.checkpoints.file_names import expert_in_name
from rushes.checkpoints.weights import OpenWeights, SecuredCallback
from rushes.errors import CheckpointError, PromptError, RushesError
from rushes.prompts.files import PromptLine
from rushes.submission.build import Refused, Run, build_from_lines, two_experts
from rushes.submission.spool import Submission
from rushes.wire.base import unicode_text
from rushes.wire.jobs import Checkpoint
from rushes.wire.models import Expert
from rushes.wire.results import JobError

LOST = "lost"
"""Checkpoint fingerprint of weights that could not be had: such samples are not those of the base model."""


class SubmissionBuilder:
    """Makes the jobs of each submission of one run.

    Args:
        run: what all its samples share.
        prompts: reads the prompt file anew. When that fails, the prompts read before are sampled, since the checkpoint
            may be gone by the time the file is mended; a failed sample beside them says what is wrong.
        read_before: what the file held before training.
    """

    def __init__(
        self, run: Run, prompts: Callable[[], Iterable[PromptLine]], read_before: Iterable[PromptLine] = ()
    ) -> None:
        self.run = run
        self.prompts = prompts
        self._read_before = list(read_before)

    def build(
        self,
        step: int,
        epoch: int | None,
        weights: OpenWeights | Exception | None,
        secured: SecuredCallback | None = None,
        *,
        expert: Expert | None = None,
    ) -> Submission:
        """The submission of one submission; `weights` is an error when they could not be had. Never raises.

        Args:
            secured: as for `OpenWeights.keep`.
            expert: the transformer of Wan2.2 that the weights are for; else what the file's name says.
        """
        make_output_directory(self.run.output_dir)  # workers make only what lies in it
        checkpoint, reason = self._keep(weights, secured)
        if checkpoint is not None and isinstance(weights, OpenWeights) and not weights.pair:
            named = expert_in_name(weights.path, short=two_experts(self.run.model))
            checkpoint = checkpoint.model_copy(update={"expert": expert or named})
        jobs, refused = build_from_lines(self.run, self._lines(), checkpoint=checkpoint, step=step, epoch=epoch)
        if reason is not None:
            jobs, refused = [], [*refused, *(Refused(job, reason) for job in jobs)]
        return Submission(jobs, refused)

    def _keep(
        self, weights: OpenWeights | Exception | None, secured: SecuredCallback | None
    ) -> tuple[Checkpoint | None, JobError | None]:
        try:
            if isinstance(weights, Exception):
                raise weights
            directory = Path(self.run.output_dir) / SNAPSHOT_DIR
            return (weights.keep(directory, secured) if weights else None), None
        except Exception as error:  # noqa: BLE001 - it may come from the trainer's own save function
            path = weights.path if isinstance(weights, OpenWeights) else ""
            return Checkpoint(path=unicode_text(path), fingerprint=LOST), why_not(error)
        finally:
            if isinstance(weights, OpenWeights):
                weights.close()

    def _lines(self) -> list[PromptLine]:
        try:
            self._read_before = list(self.prompts())
        except PromptError as error:
            known = self._read_before
            file = error.file or "the prompt file"
            text = f"({Path(file).name} cannot be read)"
            return [*known, PromptLine(file, len(known), error.line or 1, text, error=error)]
        return self._read_before


def why_not(error: Exception) -> JobError:
    """The reason for the record when the weights of a step could not be had."""
    if isinstance(error, RushesError):
        return JobError(code=error.code, message=str(error))
    return JobError(code=CheckpointError.code, message=f"the weights could not be saved: {error!r}")
