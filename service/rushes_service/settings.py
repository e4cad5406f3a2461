"""The service's settings: one frozen object, each default stated once.

Read from the environment (`RUSHES_*`) by entry points only; everything else receives what it needs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rushes.client.client import DEFAULT_URL
from rushes.errors import ConfigError
from rushes.wire.base import summary
from rushes.wire.models import Dtype

GIB = 1 << 30

Batching = Literal["auto", "on", "off"]
"""Of small samples: on a GPU, on any device, or never."""


def xdg(variable: str, fallback: str) -> Path:
    """A per-user directory by the XDG base directory convention.

    Raises:
        ConfigError: the variable is not set, and the user has no home.
    """
    try:
        return Path(os.environ.get(variable) or Path.home() / fallback) / "rushes"
    except RuntimeError:
        raise ConfigError(f"this user has no home directory: set HOME, or {variable}") from None


LISTED = r"(?:[A-Za-z]:(?=[\\/]))?[^:]+"
"""An entry of a list that is separated by `:`; the one behind the letter of a drive belongs to the entry."""


class Settings(BaseSettings):
    """Everything that can be set about workers, API and embedded server. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="RUSHES_", env_ignore_empty=True, frozen=True, extra="ignore")

    redis_url: str = DEFAULT_URL
    cache_dir: Path = Field(default_factory=lambda: xdg("XDG_CACHE_HOME", ".cache"))
    """Conditioning cache (text embeddings), and the gallery's stills."""
    state_dir: Path = Field(default_factory=lambda: xdg("XDG_STATE_HOME", ".local/state"))
    """Data of the embedded Valkey server."""

    host: str = "127.0.0.1"
    port: int = Field(default=8720, ge=0, le=65535)
    token: SecretStr | None = None
    """Bearer token; required as soon as `host` is not a loopback address."""
    roots: Annotated[tuple[Path, ...], NoDecode] = Field(default_factory=lambda: (Path.cwd(),))
    """Directories that files named in a REST request must lie under; in the environment separated by `:`."""

    rate_limit: int = Field(default=600, ge=0)
    """Changes (requests other than GET) that one address may make per minute; 0 is no limit."""
    webhook_url: str | None = None
    """Receives a message for every sample that ends."""
    webhook_secret: SecretStr | None = None
    """`whsec_...`: signs those messages."""

    device: str = "auto"
    shown_device: str | None = None
    """What a worker calls its device, where it is shown one GPU of several alone."""
    dtype: Dtype | None = None
    """Precision of transformers where jobs name none: bfloat16 on a GPU (float16 before Ampere), else float32."""
    offload: bool = False
    """Keep transformers in host memory; each block is on the GPU only while it computes."""
    attention: str = "auto"
    """What computes attention: auto, native, cudnn, flash, flash3, xformers or sage (approximate)."""
    batching: Batching = "auto"
    """Small samples of one checkpoint, and guidance, in one batch: auto (on a GPU), on or off."""
    tf32: bool = True
    """Convolutions in float32 may use TF32 on a GPU, as with PyTorch's defaults and so in the trainers."""
    decode_device: str | None = None
    """Another GPU, on which samples are decoded: cuda:1."""
    min_free_vram: float = Field(default=0.0, ge=0)
    """GiB of the GPU that must be available before a sample begins; until then it waits."""
    encoder_memory: float | None = Field(default=None, ge=0)
    """GiB of host memory that text and image encoders may be kept in between prompts; 0 keeps none. By default as much
    as leaves a quarter of the host's memory available."""
    model_memory: float | None = Field(default=None, ge=0)
    """GiB of host memory that base models which are not in use may be kept in; 0 keeps none. By default as much as
    leaves a quarter of the host's memory available."""
    compile: bool = False
    """Run the blocks of transformers by compiled graphs, once these are built; they are kept in `cache_dir`."""
    overlap: bool = True
    """Decode and write a sample while the next one is denoised, unless memory ran out for its size lately."""
    cache_max_gb: float = Field(default=20.0, gt=0)
    """GiB of the conditioning cache; beyond it, the least recently used files are deleted."""
    staged_max_gb: float = Field(default=20.0, gt=0)
    """GiB of files fetched from a store (`--rushes_staging`); beyond it, the least recently used are deleted."""
    map: Annotated[tuple[str, ...], NoDecode] = ()
    r"""Pairs of the trainers' directories and this machine's, `/train=/mnt/train`, `C:\train=/mnt/train`; in the
    environment separated by `:`."""
    staging_patience_s: float = Field(default=600.0, ge=0)
    """How long a sample waits for a store that is away, at a stretch, before that counts as a failed try."""
    lease_s: float = Field(default=30.0, gt=0)
    """Seconds without renewal after which a sample is given to another worker."""
    heartbeat_s: float = Field(default=0.5, gt=0)
    """Interval at which a running sample reports progress, renews its lease and receives a cancel."""
    grace_s: float = Field(default=60.0, ge=0)
    """How long a worker may finish its sample after SIGTERM before it hands it back."""
    max_attempts: int = Field(default=3, ge=1)
    """Tries of a sample that fails for a reason that may pass (out of memory, disk full)."""
    patience_s: float = Field(default=600.0, gt=0)
    """A sample of another base model that has waited for this long goes before those of the model that is loaded."""
    max_deliveries: int = Field(default=5, ge=1)
    """Workers that may die over one sample before it is set aside as dead."""
    retry_delay_s: float = Field(default=5.0, ge=0)
    """Wait before the second attempt; doubles with each further one."""

    @property
    def encoder_bytes(self) -> int | None:
        """`encoder_memory` in bytes."""
        return None if self.encoder_memory is None else int(self.encoder_memory * GIB)

    @property
    def model_bytes(self) -> int | None:
        """`model_memory` in bytes."""
        return None if self.model_memory is None else int(self.model_memory * GIB)

    @property
    def staged_bytes(self) -> int:
        """`staged_max_gb` in bytes."""
        return int(self.staged_max_gb * GIB)

    @field_validator("roots", "map", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return re.findall(LISTED, value) if isinstance(value, str) else value


def load_settings(**flags: Any) -> Settings:
    """Settings from the environment, with every flag that was given (neither None nor empty) on top.

    Raises:
        ConfigError: a variable or flag has a value that cannot be; the message names it.
    """
    given = {name: value for name, value in flags.items() if value not in (None, "")}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigError(f"settings (a flag, or RUSHES_ and its name in capitals): {summary(error)}") from None
