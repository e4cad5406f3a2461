"""`--fp8_fast`: products in float8 are those of the rounded numbers, and samples say that they are approximate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine_support import Recorder, make_job, write_lora
from family_support import build_tiny
from rushes_service.engine.engine import Engine
from rushes_service.runtime.float8 import FP8_MAX, FastFloat8Linear, Float8Linear, stored_in_float8


def layer(columns: int, rows: int, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    return nn.Linear(columns, rows, dtype=dtype).requires_grad_(False)


def rounded(matrix: torch.Tensor) -> torch.Tensor:
    """Float8 with a scale for each row, by its definition."""
    scales = matrix.float().abs().amax(dim=1, keepdim=True) / FP8_MAX
    return (matrix.float() / scales).to(torch.float8_e4m3fn).float() * scales


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
def test_a_layer_multiplies_the_rounded_numbers(dtype: torch.dtype, apart: float) -> None:
    fast, exact = layer(64, 32, dtype), layer(64, 32, dtype)
    stored_in_float8(fast, scaled=True, fast=True)
    assert type(fast) is FastFloat8Linear
    inputs = torch.randn(2, 5, 64).to(dtype)
    inputs[0, 0] = 0.0
    found = fast(inputs)
    assert (found.shape, found.dtype) == ((2, 5, 32), dtype)
    numbers = rounded(inputs.flatten(0, 1)).nan_to_num() @ fast.expanded(torch.float32).t() + exact.bias.float()
    torch.testing.assert_close(found.float().flatten(0, 1), numbers, atol=apart, rtol=apart)
    error = (found.float() - exact(inputs).float()).norm() / exact(inputs).float().norm()
    assert 0.005 < error < 0.06


def test_what_is_not_finite_stays_so() -> None:
    fast = layer(32, 16, torch.float32)
    stored_in_float8(fast, scaled=True, fast=True)
    for wrong in (float("nan"), float("inf")):
        inputs = torch.ones(1, 32)
        inputs[0, 3] = wrong
        assert not torch.isfinite(fast(inputs)).any()


def test_sizes_that_no_kernel_takes_are_computed_as_with_fp8_scaled() -> None:
    fast, scaled = layer(24, 16, torch.float32), layer(24, 16, torch.float32)
    stored_in_float8(fast, scaled=True, fast=True)
    stored_in_float8(scaled, scaled=True)
    assert type(fast) is Float8Linear
    inputs = torch.randn(3, 24)
    assert torch.equal(fast(inputs), scaled(inputs))


def test_samples_say_that_they_are_approximate_and_loras_come_and_go(tmp_path: Path) -> None:
    model, engine = build_tiny("wan2.1-t2v", tmp_path / "model"), Engine("cpu", tmp_path / "cache")
    lora = write_lora(tmp_path / "a.safetensors", alpha=8.0)

    def frames(*adapter: Path, **fields: bool) -> np.ndarray:
        job = make_job(model, *adapter)
        denoised = engine.denoise(job.model_copy(update={"model": job.model.model_copy(update=fields)}), Recorder())
        said = [text for text in denoised.warnings if "--fp8_fast" in text]
        assert bool(said) is ("products" in denoised.facts()["stored_as"]) is fields.get("fp8_fast", False)
        return np.stack(list(denoised.frames())).astype(int)

    exact, scaled = frames(), frames(fp8_scaled=True)
    fast = frames(fp8_fast=True)
    assert any(type(part) is FastFloat8Linear for part in engine.loaded.base.transformer.modules())
    assert 0 < np.abs(fast - scaled).mean() < 10
    assert np.abs(fast - exact).mean() < 10
    assert np.abs(frames(lora, fp8_fast=True) - fast).mean() > 1
    assert np.array_equal(frames(fp8_fast=True), fast)
