"""Several processes of one sample: what they must not try, and what one tells another."""

from __future__ import annotations

import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from rushes.errors import CheckpointMissing, ConfigError, ModelError, OutOfMemory, WorkerUnfit
from rushes.wire.jobs import VaeOptions
from rushes_service.engine.fallbacks import LOAD, decode_fallbacks
from rushes_service.engine.parallel.partners import Partners, Together
from rushes_service.engine.parallel.sharing import check_heads, check_lengths
from rushes_service.engine.parallel.trouble import goes_on, told, trouble_of


@pytest.mark.parametrize(
    ("error", "kind", "again"),
    [
        (CheckpointMissing("a.safetensors: gone"), CheckpointMissing, True),
        (OutOfMemory("full"), OutOfMemory, True),
        (WorkerUnfit("CUDA error"), WorkerUnfit, False),
        (RuntimeError("a fault"), WorkerUnfit, False),
        (OSError("a file"), WorkerUnfit, False),
    ],
)
def test_an_error_of_another_process_is_told_as_what_it_is(error: Exception, kind: type, again: bool) -> None:
    found = told(trouble_of(error), "process 1 of 2")
    assert type(found) is kind
    assert str(error) in str(found)
    assert "process 1 of 2" in str(found)
    assert goes_on(error) is again


def test_transformers_that_several_processes_compute_are_not_offloaded() -> None:
    assert [Partners().can(fallback) for fallback in LOAD] == [True, True, True]
    assert [Together().can(fallback) for fallback in LOAD] == [True, True, False]
    assert all(Together().can(fallback) for fallback in decode_fallbacks(VaeOptions(), 512, 512, chunked=True))


@pytest.mark.parametrize(("heads", "devices"), [(12, 2), (12, 4), (40, 8), (24, 5), (3, 3)])
def test_heads_that_devices_share(heads: int, devices: int) -> None:
    check_heads(heads, devices)


@pytest.mark.parametrize(("heads", "devices"), [(12, 8), (2, 3), (24, 7)])
def test_heads_that_would_leave_a_device_without_one_are_refused(heads: int, devices: int) -> None:
    with pytest.raises(ModelError, match=f"{devices} devices cannot share {heads} heads"):
        check_heads(heads, devices)


def test_a_prompt_that_is_too_short_for_all_devices_is_refused_before_they_wait_for_each_other() -> None:
    model, picture = QwenImageTransformer2DModel, torch.zeros(1, 64, 4)
    check_lengths(model, {"hidden_states": picture, "encoder_hidden_states": torch.zeros(1, 8, 4)}, 8)
    check_lengths(model, {"hidden_states": picture, "encoder_hidden_states_mask": None}, 8)
    with pytest.raises(ConfigError, match="8 cannot share 7 tokens of encoder hidden states"):
        check_lengths(model, {"hidden_states": picture, "encoder_hidden_states": torch.zeros(1, 7, 4)}, 8)
