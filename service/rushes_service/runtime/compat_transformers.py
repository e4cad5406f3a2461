"""Names of transformers that differ between its versions, in one place. `tests/house/test_compat.py` checks them."""

from __future__ import annotations

from typing import ClassVar

import transformers

PillowSiglipProcessor = getattr(transformers, "SiglipImageProcessorPil", None) or transformers.SiglipImageProcessor  # type: ignore[attr-defined]
"""SigLIP's image processor that resizes with Pillow, as that of the reference."""

PillowQwenProcessor = getattr(transformers, "Qwen2VLImageProcessorPil", None) or transformers.Qwen2VLImageProcessor  # type: ignore[attr-defined]
"""Qwen2.5-VL's image processor that resizes with Pillow: the other one needs torchvision."""


class Qwen3(transformers.Qwen3Model):  # type: ignore[misc]
    """Qwen3 without the head that predicts words. It is published with one, which is passed over silently."""

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^lm_head"]
