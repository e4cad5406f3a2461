"""What a trainer like sd-scripts' does once its sampling is moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rushes.errors import ArchitectureError, ConfigError
from rushes.integrations.sd_scripts import RushesSampling, family_of, translated
from rushes.training.flags import model_from_args
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


def test_a_family_that_is_not_known_or_not_named_is_told() -> None:
    with pytest.raises(ArchitectureError, match=r"flux1-kontext or .* diffusers; FLUX\.1 Kontext"):
        family_of(Trainer, None)
    with pytest.raises(ArchitectureError, match=r"flux2-dev: what Trainer trains is sampled with"):
        family_of(Trainer, "flux2-dev")
    lumina = type("LuminaNetworkTrainer", (BaseTrainer,), {})
    with pytest.raises(ArchitectureError, match=r"LuminaNetworkTrainer trains; --rushes_architecture diffusers"):
        family_of(lumina, None)
    assert family_of(lumina, "diffusers") == "diffusers"


BaseTrainer = type("NetworkTrainer", (), {})


@pytest.mark.parametrize("name", ["SdxlNetworkTrainer", "Sd3NetworkTrainer", "NetworkTrainer"])
def test_what_a_pipeline_of_diffusers_samples_need_not_be_named(name: str) -> None:
    kind = BaseTrainer if name == "NetworkTrainer" else type(name, (BaseTrainer,), {})
    assert family_of(type(f"Sampled{name}", (RushesSampling, kind), {}), None) == "diffusers"


def test_a_pipeline_is_that_of_the_model_that_is_trained_or_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "sdxl"
    directory.mkdir()
    sdxl = {**FLUX, "pretrained_model_name_or_path": str(directory), "rushes_architecture": None}
    args = arguments(tmp_path, "", **sdxl)
    model = model_from_args(vars(translated(args, "diffusers")), "diffusers", None)
    assert (model.model, model.dit, model.vae) == (str(directory), None, FLUX["ae"])
    args.rushes_model = "some/hub-id"
    assert translated(args, "diffusers").rushes_model == "some/hub-id"
    args.pretrained_model_name_or_path, args.vae = "finetune.safetensors", "vae.safetensors"
    model = model_from_args(vars(translated(args, "diffusers")), "diffusers", None)
    assert (model.model, model.dit, model.vae) == ("some/hub-id", "finetune.safetensors", "vae.safetensors")
    args.vae = "some/vae"
    assert translated(args, "diffusers").vae == FLUX["ae"]
    args.rushes_model, args.pretrained_model_name_or_path = None, "sd_xl_base_1.0.safetensors"
    with pytest.raises(ConfigError, match=r"sd_xl_base_1\.0\.safetensors is a single file.*--rushes_model"):
        translated(args, "diffusers")
