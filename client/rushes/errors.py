"""Every error Rushes raises.

    RushesError
    ├── InputError                 the request is wrong; asking again changes nothing
    │   ├── PromptError            a prompt file or line (file, line, column)
    │   ├── ArchitectureError      unknown model family, or an input the family needs is absent
    │   ├── CheckpointError        a checkpoint file
    │   │   ├── CheckpointMissing      it is not there (any more)
    │   │   ├── CheckpointIncomplete   it is cut short or still being written
    │   │   └── CheckpointFormat       it is not a safetensors file (a pickle, say)
    │   ├── LoraError              a LoRA that does not fit
    │   │   ├── LoraMismatch           no key, not every key, or a foreign family's keys
    │   │   └── LoraValue              wrong shapes or non-finite numbers
    │   ├── ModelError             base model files missing, unreadable or of another family
    │   └── ConfigError            a flag or setting
    ├── SampleError                the sample was tried and did not work
    │   ├── NonFiniteLatents       NaN or infinity while denoising
    │   ├── OutputError            the media file could not be written (retried)
    │   │   └── OutputRefused          its directory is not there, or may not be written (not retried)
    │   └── OutOfMemory            the device has too little memory (retried)
    ├── SampleStopped              the sample was ended from outside
    │   ├── SampleCancelled        a user cancelled it
    │   ├── LeaseLost              another worker owns it now
    │   └── SampleHandedBack       this worker is shutting down; the sample goes back to its lane
    ├── WorkerUnfit                this process must not go on (CUDA error); its supervisor restarts it
    ├── QueueError
    │   ├── QueueUnavailable       Redis cannot be reached, or refuses
    │   └── JobNotFound            no record of that sample
    ├── StagingError               files cannot be put into the store that machines share, or fetched from it (retried)
    │   └── StoreUnavailable           it cannot be reached; waited for
    ├── WireError                  a payload that cannot be decoded; keeps the raw bytes
    ├── WaitTimeout                `Client.wait` ran out of time
    └── SampleFailed               raised by `Client.wait` for a sample that ended without a picture

A message says what was wrong, where, and what to do. `code` is stable and goes over
the wire; `retryable` tells the worker whether another attempt can help.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class RushesError(Exception):
    """Base of every error of this package."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False


class InputError(RushesError):
    """The request is wrong; asking again unchanged gives the same answer."""

    code = "input"


class PromptError(InputError):
    """A prompt file or line is wrong or ambiguous.

    Args:
        message: what is wrong and what to write instead.
        file: path of the prompt file, or None for a line given directly.
        line: 1-based line number (for `.json` and `.toml`: the entry's ordinal), or None.
        column: 1-based column of the offending text, or None.
        key: field of `Prompt` or key of the table that is at fault, or None.
    """

    code = "prompt"

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        key: str | None = None,
    ) -> None:
        self.message = message
        self.key = key
        self.file = file
        self.line = line
        self.column = column
        where = ":".join(str(part) for part in (file, line, column) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)


class ArchitectureError(InputError):
    """The model family is unknown, or an input that it needs was not given."""

    code = "architecture"


class CheckpointError(InputError):
    """A checkpoint file cannot be sampled."""

    code = "checkpoint"


class CheckpointMissing(CheckpointError):
    """The checkpoint is not at its path (any more)."""

    code = "checkpoint_missing"


class CheckpointIncomplete(CheckpointError):
    """The checkpoint is cut short, or its writer has not finished."""

    code = "checkpoint_incomplete"


class CheckpointFormat(CheckpointError):
    """The checkpoint is not a safetensors file."""

    code = "checkpoint_format"


class LoraError(InputError):
    """A LoRA file does not fit the model it is to be merged into."""

    code = "lora"


class LoraMismatch(LoraError):
    """Keys of the file match nothing, only partly, or another model family."""

    code = "lora_mismatch"


class LoraValue(LoraError):
    """Tensors of the file have wrong shapes or hold NaN or infinity."""

    code = "lora_value"


class ModelError(InputError):
    """Files of the base model are missing, unreadable or of another family."""

    code = "model"


class ConfigError(InputError):
    """A flag or setting has a value that cannot work."""

    code = "config"


class SampleError(RushesError):
    """A sample was tried and did not work."""

    code = "sample"


class NonFiniteLatents(SampleError):
    """Latents became NaN or infinite while denoising: the checkpoint has most likely diverged."""

    code = "non_finite"


class OutputError(SampleError):
    """The result could not be written. Retried, since room and permissions can come back."""

    code = "output"
    retryable = True


class OutputRefused(OutputError):
    """The output directory is not there (not mounted, say) or may not be written. Another attempt changes nothing."""

    retryable = False


class OutOfMemory(SampleError):
    """The device has too little memory for this sample."""

    code = "out_of_memory"
    retryable = True


class SampleStopped(RushesError):
    """A running sample was ended from outside; nothing is wrong with it."""

    code = "stopped"


class SampleCancelled(SampleStopped):
    """A user cancelled the sample."""

    code = "cancelled"


class LeaseLost(SampleStopped):
    """Another worker owns the sample now; whatever this one made is discarded."""

    code = "lease_lost"


class SampleHandedBack(SampleStopped):
    """The worker is shutting down and gives the sample back to its lane."""

    code = "handed_back"


class WorkerUnfit(RushesError):
    """The process is in a state in which no sample can be trusted (a CUDA error, say).

    Nothing is acknowledged: the process exits, its supervisor starts a new one, and
    the sample is delivered again.
    """

    code = "worker_unfit"


class QueueError(RushesError):
    """The queue cannot do the operation."""

    code = "queue"


class QueueUnavailable(QueueError):
    """Redis cannot be reached, or refuses the command."""

    code = "queue_unavailable"


class JobNotFound(QueueError):
    """There is no record of that sample (unknown id, or expired)."""

    code = "job_not_found"


class StagingError(RushesError):
    """The store that trainer and workers share cannot be reached, refuses, or lacks a file. Retried."""

    code = "staging"
    retryable = True


class StoreUnavailable(StagingError):
    """The store cannot be reached, or not now. A worker waits for it before it gives the sample up."""


class WireError(RushesError):
    """A payload cannot be decoded. `raw` keeps it as it came."""

    code = "wire"

    def __init__(self, message: str, raw: str) -> None:
        super().__init__(message)
        self.raw = raw


class WaitTimeout(RushesError):
    """The samples waited for have not all ended in time."""

    code = "wait_timeout"


class SampleFailed(RushesError):
    """A sample that was waited for ended without a picture."""

    code = "sample_failed"

    def __init__(self, message: str, results: Sequence[Any] = ()) -> None:
        self.results = results
        """A `SampleResult` for every sample waited for, in order; None where the payload could not be read."""
        super().__init__(message)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its class if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
