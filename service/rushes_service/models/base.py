"""What a model family has to provide. The engine knows families by this class alone."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from rushes.families.parameters import SampleParameters
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import NoiseSource, VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.lora.targets import NameTable
from rushes_service.lora.text_encoders import TextLoras
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.encoder_store import EncoderStore
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.filling import Destination
from rushes_service.models.loading.from_repo import Source
from rushes_service.models.loading.storing import WeightStorage
from rushes_service.runtime.devices import CPU, DTYPES
from rushes_service.settings import Batching

OnStep = Callable[[int, int, torch.Tensor], None]
"""Called after each step with steps done, steps in all and the latents. Raising ends the sample at once."""

Sample = tuple[SampleParameters, Conditioning]
"""What a sample is denoised by."""


@dataclass(frozen=True)
class Denoised:
    """The result of denoising: latents as the decoder's `decode` takes them, and what to say in the receipt.

    `frame_count` is how many frames they become, if that is for the model to say; None is as asked.
    """

    latents: torch.Tensor
    facts: dict[str, Any] = field(default_factory=dict)
    frame_count: int | None = None
    warnings: tuple[str, ...] = ()


class Architecture(ABC):
    """One base model of a family, from its files to decoded pictures.

    Nothing is read before `load`, apart from what `encode` needs on a cache miss. An exception out of any method,
    also one raised by a callback, leaves the object usable.

    `device` is where `load` puts what it loads, and where `encode` computes and leaves its result. It may be changed in
    between; `denoise` and `decode` go by where the modules are. `file_hashes` knows files that have been deleted since.
    `encoders` is where `encode` lends encoders from: one that keeps none, unless it is given another.
    """

    spec: ClassVar[ArchitectureSpec]

    chunked: ClassVar[bool] = False
    """True if `VaeOptions.chunk_size` lowers the memory of decoding."""

    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")
    """The transformer's lists of blocks, whose linear layers `--fp8_scaled` is for."""

    source: Source
    """Where its parts are."""

    vae: Any
    """The loaded VAE, a module that remembers its device."""

    text_loras: TextLoras = TextLoras()
    """LoRAs of the text encoders for the next sample; set by the engine. Embeddings depend on them."""

    usual_vae_dtype: torch.dtype = torch.float32
    """Precision of the VAE where `--vae_dtype` names none."""

    storage: WeightStorage | None = None
    """How the transformer's weights are kept, if not as they are computed with; set before `load`."""

    batching: Batching = "off"
    """Whether guidance, and small samples, are denoised in one batch; set by the engine."""

    noise_source: NoiseSource = "device"
    """Which device's numbers the noise of the next sample is made of; set by the engine."""

    def __init__(
        self, model: ModelSpec, device: torch.device, dtype: torch.dtype, file_hashes: FileHashCache | None = None
    ) -> None:
        self._decoder: Any = None
        self.file_hashes = file_hashes or FileHashCache()
        self.encoders = EncoderStore()
        self.model = model
        self.device = device
        self.dtype = dtype

    @property
    def decoder(self) -> Any:
        """The VAE that decodes: `vae`, or its copy on another device, see `decode_on`."""
        return self.vae if self._decoder is None else self._decoder

    def decode_on(self, device: torch.device) -> None:
        """Decode on another device from now on, with a copy of the VAE; pictures are encoded by the VAE itself."""
        self._decoder = copy.deepcopy(self.vae).to(device)

    @property
    def parts(self) -> list[nn.Module]:
        """All modules that `load` has loaded."""
        return [self.transformer, self.vae]

    @property
    def vae_dtype(self) -> torch.dtype:
        """The precision of the VAE: as asked for, else the family's usual one."""
        asked = self.model.vae_dtype
        return self.usual_vae_dtype if asked is None else DTYPES[asked]

    @property
    def destination(self) -> Destination:
        """Where `load` puts a part."""
        return Destination(self.device)

    @property
    def transformer_destination(self) -> Destination:
        """Where and how `load` puts the transformer."""
        return Destination(self.device, self.storage)

    @property
    def noise_device(self) -> torch.device:
        """Where noise and posteriors are drawn: a seed gives other numbers on the CPU and on each kind of GPU."""
        return CPU if self.noise_source == "cpu" else self.device

    def noise_generator(self, seed: int) -> torch.Generator:
        """A new generator on `noise_device`."""
        return torch.Generator(self.noise_device).manual_seed(seed)

    @classmethod  # noqa: B027  # not abstract: most families can sample whatever resolves
    def check(cls, parameters: SampleParameters) -> None:
        """Raise `PromptError` for what this family cannot sample, before anything is loaded."""

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        """Options of the job that change nothing here, or make the picture approximate."""
        return ()

    @abstractmethod
    def load(self) -> None:
        """Put everything but text and image encoders on the device.

        Raises:
            ModelError: a file is missing, unreadable or of another family.
        """

    @property
    @abstractmethod
    def transformer(self) -> nn.Module:
        """The module LoRAs are merged into."""

    @property
    def lora_family(self) -> str:
        """The family that LoRA files must not contradict."""
        return self.model.architecture

    @abstractmethod
    def lora_names(self) -> NameTable:
        """What module names in LoRA files mean."""

    def completed(self, parameters: SampleParameters) -> SampleParameters:
        """`parameters` with what they leave to the model, now that it is loaded.

        Raises:
            PromptError: the model has no default for something.
        """
        return parameters

    @abstractmethod
    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        """Text (and image) embeddings on the device, from the cache where it has them.

        Encoders are lent from `encoders`, on a miss only, and given back.

        Raises:
            ModelError: an encoder is needed and its files are not there.
        """

    def encode_images(self, parameters: SampleParameters, conditioning: Conditioning, vae: VaeOptions) -> Conditioning:
        """`conditioning` and what the VAE makes of the prompt's pictures, for families that condition on latents.

        The VAE is loaded anyway and a posterior may be drawn with the sample's seed, so this is not cached.
        """
        return conditioning

    def uses_masks(self, conditioning: Conditioning) -> bool:
        """True if some of the transformer's attention may be masked, which not all kernels can do."""
        return True

    def batch_key(self, parameters: SampleParameters, conditioning: Conditioning) -> Hashable:
        """What a sample has in common with those it can be denoised with in one batch; None if there can be none."""
        return None

    def most_together(self, parameters: SampleParameters, conditioning: Conditioning) -> int:
        """How many samples of this `batch_key` are to be denoised in one batch."""
        return 1

    def denoise_together(self, samples: Sequence[Sample], on_step: OnStep) -> list[Denoised]:
        """Sample latents of several samples of one `batch_key`; `on_step` gets those of all, [n, ...]."""
        raise NotImplementedError

    def total_steps(self, parameters: SampleParameters) -> int:
        """Denoising steps of a sample, for its progress: `on_step` is called so many times."""
        return parameters.sample_steps

    @abstractmethod
    def denoise(self, parameters: SampleParameters, conditioning: Conditioning, on_step: OnStep) -> Denoised:
        """Sample latents; `on_step` may raise to stop."""

    @abstractmethod
    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        """Pixels as they are decoded: float32 [3, frames, height, width] in 0..1, a few frames at a time.

        A single picture may have transparency as a fourth channel.
        """
