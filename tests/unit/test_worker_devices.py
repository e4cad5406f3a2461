"""What `--devices` and `--parallel` may be, and which GPUs are left to see."""

from __future__ import annotations

import pytest

from rushes.errors import ConfigError
from rushes.wire.models import ModelSpec
from rushes_service.settings import Settings
from rushes_service.worker.devices import Together


@pytest.mark.parametrize(
    ("devices", "way", "only", "settings", "said"),
    [
        ("cuda:0,cuda:1", None, None, {}, "go together"),
        (None, "ulysses", None, {}, "go together"),
        ("cuda:0", "ulysses", None, {}, "go together"),
        ("cuda:0,cuda:0", "ulysses", None, {}, "different GPUs"),
        ("cuda:0,cpu", "ulysses", None, {}, "different GPUs"),
        ("cuda:0,cuda:1", "ulysses", "framepack", {}, "--only framepack: several devices cannot"),
        ("cuda:0,cuda:1", "ulysses", None, {"offload": True}, "--offload does not go with --devices"),
        ("cuda:0,cuda:1", "ulysses", None, {"compile": True}, "--compile does not"),
    ],
)
def test_flags_that_do_not_go_together_are_told(
    devices: str | None, way: str | None, only: str | None, settings: dict[str, bool], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Together.parse(devices, way, Settings(**settings), only)


def test_gpus_are_numbered_anew_among_those_that_are_seen() -> None:
    together = Together.parse("cuda:3,cuda:1", "ulysses", Settings(), None)
    environment: dict[str, str] = {}
    settings, scores = together.show_only_these(environment, Settings(), "cpu")
    assert (settings.device, settings.shown_device, settings.decode_device, scores) == ("cuda:0", "cuda:3", None, "cpu")
    assert environment == {"CUDA_VISIBLE_DEVICES": "3,1"}
    environment = {"CUDA_VISIBLE_DEVICES": "7,5,3,GPU-a"}
    settings, scores = together.show_only_these(environment, Settings(decode_device="cuda:0"), "cuda:1")
    assert (settings.device, settings.decode_device, scores) == ("cuda:0", "cuda:2", "cuda:1")
    assert environment == {"CUDA_VISIBLE_DEVICES": "GPU-a,5,7"}
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES is 0,1"):
        together.show_only_these({"CUDA_VISIBLE_DEVICES": "0,1"}, Settings(), "cpu")


def test_a_worker_with_several_devices_leaves_what_they_cannot_do_to_others() -> None:
    together = Together.parse("cuda:0,cuda:1", "ulysses", Settings(), None)
    wan = ModelSpec(architecture="wan2.1-t2v", model="m")
    serves = together.serving(None)
    assert serves(wan)
    assert not serves(wan.model_copy(update={"fp8_base": True}))
    assert not serves(ModelSpec(architecture="framepack", model="m"))
    assert not together.serving(lambda _model: False)(wan)
