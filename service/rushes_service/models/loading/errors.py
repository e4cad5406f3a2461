"""What the loaders of diffusers and transformers raise over bad files, as errors that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from rushes.errors import ModelError, first_line


@contextlib.contextmanager
def loading(path: Path) -> Iterator[None]:
    """Turn what the loaders of diffusers and transformers raise over bad files into `ModelError`."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be loaded: {first_line(error)}") from error
    except RuntimeError as error:
        if "size mismatch" not in str(error) and "state_dict" not in str(error):
            raise
        raise ModelError(f"{path} does not fit its own config.json: {first_line(error)}") from error
