"""sd-scripts (kohya-ss), with sampling moved to Rushes.

    python -m rushes.integrations.sd_scripts sdxl_train_network.py --rushes_model DIRECTORY_OR_HUB_ID ...
    python -m rushes.integrations.sd_scripts flux_train_network.py --rushes_architecture flux1-kontext ...

What sd-scripts trains is sampled by the pipeline of diffusers that a model's directory or hub id names, and FLUX.1
Kontext as musubi-tuner samples it. flux_train_network.py trains both, and the file does not tell which: its user does.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rushes.errors import ArchitectureError, ConfigError
from rushes.families.table import ARCHITECTURES
from rushes.integrations.kohya import Sidecar
from rushes.integrations.launching import PREFIX, Trainer, add_flags, launch
from rushes.training.cadence import Cadence

logger = logging.getLogger("rushes")

ANY_PIPELINE = "diffusers"
"""The family whose `--rushes_model` says what it is."""

KONTEXT = "flux1-kontext"

SERVED: Mapping[str, tuple[str, ...]] = {
    "SdxlNetworkTrainer": (ANY_PIPELINE,),
    "Sd3NetworkTrainer": (ANY_PIPELINE,),
    "FluxNetworkTrainer": (KONTEXT, ANY_PIPELINE),
    "LuminaNetworkTrainer": (),
    "HunyuanImageNetworkTrainer": (),
    "AnimaNetworkTrainer": (),
    "NetworkTrainer": (ANY_PIPELINE,),
}
"""Trainer's class -> families that it trains and Rushes is known to sample; of several its user names one. The last,
of train_network.py, is the base of them all: Stable Diffusion 1 and 2."""

FLAGS = {"dit": "pretrained_model_name_or_path", "vae": "ae", "text_encoder1": "t5xxl", "text_encoder2": "clip_l"}
"""Our name of a part of FLUX -> theirs."""


def family_of(trainer: type, named: str | None) -> str:
    """The family to sample.

    Args:
        trainer: class of the trainer.
        named: `--rushes_architecture`.

    Raises:
        ArchitectureError: Rushes does not serve what is trained, or does not know what it is.
    """
    served = next((SERVED[kind.__name__] for kind in trainer.__mro__ if kind.__name__ in SERVED), ())
    if named in (*served, ANY_PIPELINE):
        return str(named)
    if named is None and len(served) == 1:
        return served[0]
    name = trainer.__name__.removeprefix(PREFIX)
    if not served:
        raise ArchitectureError(
            f"{named or 'the model'}: Rushes does not know how to sample what sd-scripts' {name} trains; "
            f"--rushes_architecture {ANY_PIPELINE} with --rushes_model, a diffusers directory or hub id, may do it"
        )
    choices = " or ".join(f"--rushes_architecture {family}" for family in served)
    raise ArchitectureError(
        f"{named or 'the model'}: what {name} trains is sampled with {choices}"
        + ("; FLUX.1 Kontext is the first, dev, schnell and Chroma are the second" if KONTEXT in served else "")
    )


if TYPE_CHECKING:

    class NetworkTrainer:
        """What the mixin relies on, as sd-scripts has it."""

        def train(self, args: argparse.Namespace) -> Any: ...
        def generate_step_logs(self, *args: Any, **kwargs: Any) -> Any: ...

else:
    NetworkTrainer = object


class RushesSampling(NetworkTrainer):
    """Put before an sd-scripts trainer: `class MyTrainer(RushesSampling, FluxNetworkTrainer)`.

    Texts of the prompt file are not encoded and nothing is sampled here. The VAE and the text encoders that are needed
    to train are the trainer's own business.
    """

    rushes_flags: ClassVar[Mapping[str, Any]] = {}
    """Flags of ours that the launcher has taken from the command line."""

    _sidecar: Sidecar | None = None
    _accelerator: Any = None

    def train(self, args: argparse.Namespace) -> Any:
        """As the trainer's own; it is not told of the prompt file, whose texts it would encode.

        Raises:
            PromptError, ArchitectureError, ConfigError: before training, what is wrong with the file or the flags.
        """
        add_flags(args, self.rushes_flags)
        if args.sample_prompts:
            family = family_of(type(self), getattr(args, "rushes_architecture", None))
            self._sidecar = Sidecar.open(translated(args, family), family, cadence_of(args))
            args.sample_prompts = None
        done = False
        try:
            outcome = super().train(args)
            done = True
        finally:
            if self._sidecar is not None:
                self._sidecar.close(self._accelerator, failed=not done)
                self._sidecar = None
        return outcome

    def sample_images(
        self, accelerator: Any, args: argparse.Namespace, epoch: int | None, global_step: int, *_: Any, **__: Any
    ) -> None:
        """Hand the LoRA over, from the main process, when it is due."""
        if self._sidecar is None or not accelerator.is_main_process:
            return
        if self._accelerator is None:  # called once before the first step, due or not
            self._accelerator = accelerator
            self._sidecar.resumed(accelerator, None if args.skip_until_initial_step else args.resume)
        # With a cadence in steps, this trainer does not sample at the end of an epoch.
        if global_step == 0 or args.sample_every_n_epochs is not None or epoch is None:
            self._sidecar.sample(accelerator, args, step=global_step, epoch=epoch)

    def generate_step_logs(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own; called at every step of a run that has a tracker, which is shown what came back."""
        if self._sidecar is not None and self._accelerator is not None:
            self._sidecar.report(self._accelerator)
        return super().generate_step_logs(*args, **kwargs)


def cadence_of(args: argparse.Namespace) -> Cadence:
    """When this trainer samples: a cadence in epochs rules out one in steps."""
    by_epochs: int | None = args.sample_every_n_epochs
    by_steps: int | None = None if by_epochs is not None else args.sample_every_n_steps
    return Cadence(by_steps, by_epochs, bool(args.sample_at_first))


def translated(args: argparse.Namespace, family: str) -> argparse.Namespace:
    """This trainer's flags under the names that they have with us. Its `--fp8_base` counts; its VAE has no tiles.

    Raises:
        ConfigError: the model is to be sampled by its pipeline, and nothing says which that is.
    """
    flags = argparse.Namespace(**vars(args))
    for ours, theirs in FLAGS.items():
        setattr(flags, ours, getattr(args, theirs, None))
    flags.fp8_base = bool(args.fp8_base or getattr(args, "fp8_base_unet", False))
    if ARCHITECTURES[family].weights:
        name_pipeline(flags, getattr(args, "vae", None))
    return flags


def name_pipeline(flags: argparse.Namespace, vae: str | None) -> None:
    """Say what samples: the pipeline that is trained, or `--rushes_model` with the weights of the file that is.

    Args:
        vae: the trainer's own `--vae`; that of FLUX is `--ae`.

    Raises:
        ConfigError: a single file is trained, and nothing says how it is built.
    """
    trained: str = flags.pretrained_model_name_or_path
    named: str | None = getattr(flags, "rushes_model", None)
    if is_file(trained) and not named:
        raise ConfigError(
            f"--pretrained_model_name_or_path {trained} is a single file: its weights are sampled, but it has no "
            "configuration and no tokenizers; name a diffusers directory or hub id of such a model with --rushes_model"
        )
    flags.rushes_model = named or trained
    flags.dit = trained if is_file(trained) else None
    if vae is not None and is_file(vae):
        flags.vae = vae
    elif vae is not None:
        logger.warning("rushes: --vae %s does not count for samples: it is no single file", vae)


def is_file(name: str) -> bool:
    """True for a file with weights, false for a directory or hub id."""
    return Path(name).is_file() or Path(name).suffix in {".safetensors", ".ckpt"}


SD_SCRIPTS = Trainer(
    name="sd-scripts",
    module="train_network",
    base="NetworkTrainer",
    needs=("train", "sample_images", "generate_step_logs"),
    tried="its version of 2026-02 (commit 48d368fa)",
    mixin=RushesSampling,
    scripts="its LoRA training scripts do (their names end in train_network.py)",
)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m rushes.integrations.sd_scripts <script> <arguments>`."""
    return launch(SD_SCRIPTS, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    raise SystemExit(main())
