"""NaN and infinity in a file of weights are found wherever they are, in every precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rushes.errors import LoraValue
from rushes_service.lora.reading.files import read_file
from rushes_service.lora.reading.finite import check_finite

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2)


def mixed() -> dict[str, torch.Tensor]:
    """Tensors of all precisions in one file, two of each, and one without numbers."""
    whole = {f"{name}.{dtype}.lora_down.weight": torch.ones(3, 5).to(dtype) for dtype in DTYPES for name in "ab"}
    return {**whole, "none.lora_down.weight": torch.empty(0, 4), "steps": torch.tensor(7)}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [(0, 0), (2, 4)])
def test_one_bad_number_is_found_and_its_module_is_named(
    tmp_path: Path, dtype: torch.dtype, bad: float, place: tuple[int, int]
) -> None:
    tensors = mixed()
    spoilt = tensors[f"b.{dtype}.lora_down.weight"].double()
    spoilt[place] = bad
    tensors[f"b.{dtype}.lora_down.weight"] = spoilt.to(dtype)
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(LoraValue, match=rf"b\.{dtype} \(down\) holds NaN or infinity"):
        check_finite(read_file(tmp_path / "bad.safetensors"))


def test_large_numbers_are_not_taken_for_infinity(tmp_path: Path) -> None:
    largest = {str(dtype): torch.full((64,), torch.finfo(dtype).max, dtype=torch.float64).to(dtype) for dtype in DTYPES}
    save_file({**mixed(), **largest}, tmp_path / "large.safetensors")
    check_finite(read_file(tmp_path / "large.safetensors"))
