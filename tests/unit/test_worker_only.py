"""What `rushes worker --only` takes."""

from __future__ import annotations

import pytest

from rushes.errors import ConfigError
from rushes.wire.models import ModelSpec
from rushes_service.cli.worker import serves

MODEL = ModelSpec(architecture="wan2.1-t2v", model="/models/wan", dit="D:\\models\\dit.safetensors")


@pytest.mark.parametrize("only", [MODEL.architecture, MODEL.model, MODEL.dit, MODEL.fingerprint])
def test_a_model_is_named_by_its_family_path_or_fingerprint(only: str) -> None:
    served = serves(only)
    assert served is not None
    assert served(MODEL)
    assert not served(ModelSpec(architecture="z-image", model="Tongyi-MAI/Z-Image"))


def test_a_mistyped_family_is_told_and_not_waited_for() -> None:
    with pytest.raises(ConfigError, match=r"--only wan2\.1-t2w: unknown architecture .*wan2\.1-t2v"):
        serves("wan2.1-t2w")
