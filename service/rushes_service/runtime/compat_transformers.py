"""Names of transformers that differ between its versions, in one place. `tests/house/test_compat.py` checks them."""

from __future__ import annotations

import transformers

PillowSiglipProcessor = getattr(transformers, "SiglipImageProcessorPil", None) or transformers.SiglipImageProcessor  # type: ignore[attr-defined]
"""SigLIP's image processor that resizes with Pillow, as that of the reference."""
