"""`--fp8_t5` and `--fp8_llm`: what a family makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from family_support import tiny_model_spec, tiny_options
from queue_support import make_job
from rushes.families.parameters import resolve
from rushes.families.table import ARCHITECTURES
from rushes_service.models.conditioning import ConditioningCache
from rushes_service.models.registry import find

FLAGS = {
    "wan2.1-t2v": "fp8_t5",
    "flux1-kontext": "fp8_t5",
    "hunyuan-video": "fp8_llm",
    "hunyuan-video-i2v": "fp8_llm",
    "framepack": "fp8_llm",
}
ROUNDING = 0.1
"""Of the largest value: e4m3 has three bits behind the leading one, and errors add up over a few layers."""


@pytest.mark.parametrize(("name", "flag"), FLAGS.items())
def test_a_text_encoder_in_fp8_makes_nearly_the_same_and_is_cached_by_itself(name, flag, tmp_path: Path):
    exact, cache = tiny_model_spec(name, tmp_path / "model"), ConditioningCache(tmp_path / "cache", None)
    job = make_job(model=exact, **tiny_options(ARCHITECTURES[name], tmp_path))
    parameters, _ = resolve(job.prompt, ARCHITECTURES[name], exact)
    found = []
    for model in (exact, exact.model_copy(update={flag: True}), exact):
        base = find(name)(model, torch.device("cpu"), torch.float32)
        base.load()
        found.append(base.encode(parameters, cache)["prompt_embeds" if name != "framepack" else "text"])
        assert not any("fp8" in warning for warning in base.warnings(parameters, job.vae))
    wide, rounded, again = found
    assert torch.equal(wide, again)
    assert wide.dtype == rounded.dtype
    assert 0 < (wide - rounded).abs().mean() < ROUNDING * wide.abs().max()
