"""sd-scripts (kohya-ss), with sampling moved to Rushes.

    python -m rushes.integrations.sd_scripts flux_train_network.py --rushes_architecture flux1-kontext ...

Of the families that sd-scripts trains, Rushes samples FLUX.1 Kontext alone, which flux_train_network.py trains as it
does FLUX.1 dev; the file does not tell which of the two it is, so its user does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rushes.errors import ArchitectureError
from rushes.families.rows.flux import FLUX1_KONTEXT
from rushes.integrations.kohya import Sidecar
from rushes.integrations.launching import PREFIX, Trainer, add_flags, launch
from rushes.training.cadence import Cadence

SERVED = {"FluxNetworkTrainer": (FLUX1_KONTEXT.name,)}
"""Trainer's class -> families whose LoRAs it trains and Rushes samples."""

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
    served = {family for kind in trainer.__mro__ for family in SERVED.get(kind.__name__, ())}
    if named in served:
        return str(named)
    if not served:
        name = trainer.__name__.removeprefix(PREFIX)
        raise ArchitectureError(
            f"Rushes cannot sample what sd-scripts' {name} trains; of sd-scripts it serves flux_train_network.py with "
            f"a FLUX.1 Kontext model ({FLUX1_KONTEXT.name})"
        )
    raise ArchitectureError(
        f"{named or 'the model'}: of what this script trains Rushes samples {', '.join(sorted(served))}, and not yet "
        "FLUX.1 dev, schnell or Chroma; if the model is FLUX.1 Kontext, say --rushes_architecture flux1-kontext"
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
    _wanted: argparse.Namespace | None = None

    def train(self, args: argparse.Namespace) -> Any:
        """As the trainer's own; it is not told of the prompt file, whose texts it would encode.

        Raises:
            PromptError, ArchitectureError, ConfigError: before training, what is wrong with the file or the flags.
        """
        add_flags(args, self.rushes_flags)
        if args.sample_prompts:
            self._wanted = translated(args)
            family = family_of(type(self), getattr(args, "rushes_architecture", None))
            self._sidecar = Sidecar.open(self._wanted, family, cadence_of(args))
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


def translated(args: argparse.Namespace) -> argparse.Namespace:
    """This trainer's flags under the names that they have with us. Its `--fp8_base` counts; its VAE has no tiles."""
    flags = argparse.Namespace(**vars(args))
    for ours, theirs in FLAGS.items():
        setattr(flags, ours, getattr(args, theirs, None))
    flags.fp8_base = bool(args.fp8_base or getattr(args, "fp8_base_unet", False))
    return flags


SD_SCRIPTS = Trainer(
    name="sd-scripts",
    module="train_network",
    base="NetworkTrainer",
    needs=("train", "sample_images", "generate_step_logs"),
    tried="its version of 2026-02 (commit 48d368fa)",
    mixin=RushesSampling,
)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m rushes.integrations.sd_scripts <script> <arguments>`."""
    return launch(SD_SCRIPTS, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    raise SystemExit(main())
