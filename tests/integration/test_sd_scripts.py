"""What a trainer like sd-scripts' does once its sampling is moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rushes.errors import ArchitectureError
from rushes.integrations.sd_scripts import RushesSampling, family_of
from trainer_support import Accelerator, FluxNetworkTrainer, arguments, records, steps


class Trainer(RushesSampling, FluxNetworkTrainer):
    """As the launcher makes it."""


FLUX = {
    "pretrained_model_name_or_path": "kontext.safetensors",
    "ae": "ae.safetensors",
    "t5xxl": "t5.safetensors",
    "clip_l": "clip.safetensors",
    "fp8_base": False,
    "fp8_base_unet": True,
    "skip_until_initial_step": False,
    "rushes_architecture": "flux1-kontext",
}


@pytest.mark.parametrize(
    ("cadence", "sampled"),
    [
        ({"sample_every_n_steps": 3, "sample_at_first": False}, [3, 6]),
        ({"sample_every_n_steps": 2, "sample_every_n_epochs": 2}, [0, 6]),
    ],
)
def test_the_trainers_own_cadence_and_files_are_kept(
    cadence: dict[str, Any], sampled: list[int], redis_url: str, tmp_path: Path
) -> None:
    args = arguments(tmp_path, redis_url, **FLUX, **cadence)
    Trainer().train(args)
    Trainer(Accelerator(is_main_process=False)).train(arguments(tmp_path, redis_url, **FLUX, **cadence))
    found = records(redis_url, len(sampled))
    assert steps(found) == sampled
    (model,) = {record.job.model for record in found if record.job}
    assert (model.dit, model.text_encoder1, model.fp8_base) == ("kontext.safetensors", "t5.safetensors", True)


def test_a_family_that_is_not_served_or_not_named_is_told() -> None:
    with pytest.raises(ArchitectureError, match=r"FLUX\.1 dev.*say --rushes_architecture flux1-kontext"):
        family_of(Trainer, None)
    with pytest.raises(ArchitectureError, match="cannot sample what sd-scripts' Sdxl trains"):
        family_of(type("Sdxl", (), {}), "flux1-kontext")
