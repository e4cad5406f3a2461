"""Any pipeline of diffusers, sampled as a bare script would: same seed, same picture or clip, to the bit.

The pipeline's own `__call__` makes the sample. It is called twice: for a new text until it draws its noise, with its
encoders, and then with the embeddings that the first call made, until it decodes. So encoders are loaded only for texts
that are new, and the decode is a stage of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from rushes.errors import ModelError, PromptError
from rushes.families.parameters import SampleParameters
from rushes.families.prompt_options import OPTION_OF_FIELD
from rushes.families.rows.generic import DIFFUSERS
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.lora.targets import NameTable, name_table
from rushes_service.models.base import Architecture, Denoised, OnStep
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.generic import calls
from rushes_service.models.generic.decoding import DecodeCall, decode_call, frames_of, size_of, tiling_warning
from rushes_service.models.generic.encoders import PipelineEncoders
from rushes_service.models.generic.names import family_of, original_names
from rushes_service.models.generic.options import (
    ARGUMENTS,
    argument_of,
    arguments_of,
    frame_rate,
    given,
    own_values,
)
from rushes_service.models.generic.source import PipelineFiles, backbone, find_pipeline
from rushes_service.models.generic.steps import Steps, tells_steps
from rushes_service.models.generic.texts import (
    AbsentEncoders,
    named_errors,
    repeat_without_encoders,
    text_key,
    texts_of,
)
from rushes_service.models.inputs.images import open_image
from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.from_repo import quiet_loading_bars
from rushes_service.runtime.devices import name_of

PICTURES = ("image_path", "end_image_path")

ALL_FRAMES = 1 << 16
"""Frames that a pipeline is to give its VAE of pictures at once: here they are split again, see `decoding.parts_of`."""


class AnyPipeline(Architecture):
    """diffusers."""

    spec: ClassVar[ArchitectureSpec] = DIFFUSERS

    def __init__(
        self, model: ModelSpec, device: torch.device, dtype: torch.dtype, file_hashes: FileHashCache | None = None
    ) -> None:
        super().__init__(model, device, dtype, file_hashes)
        self.files: PipelineFiles = find_pipeline(model, self.spec, self.file_hashes)
        self.source = self.files.source
        self._pipe: Any = None
        self._parts: list[nn.Module] = []
        self._absent: Any = None
        self._decode_calls: Any = WeakTensorKeyDictionary()
        """How the pipeline decodes latents that it made."""

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        for field in PICTURES:
            if (path := getattr(parameters, field)) is not None:
                open_image(path, field)

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        name, taken = self.files.kind.__name__, arguments_of(parameters, self.files.signature)
        warnings = [
            f"{OPTION_OF_FIELD[field]} is ignored: {name} takes no {ARGUMENTS[field][0]}"
            for field in given(parameters)
            if field not in taken and field != "frame_count"
        ]
        if self.model.vae_dtype is not None:
            warnings.append(f"--vae_dtype is ignored: {name} decodes in the precision of the whole")
        if not tells_steps(self.files.signature):
            warnings.append(f"{name} tells nothing of its steps: they are counted by its scheduler")
        if vae.chunk_size is not None:
            warnings.append("--vae_chunk_size changes nothing for a pipeline of diffusers")
        if tiles := tiling_warning(self.vae, vae, parameters.width, parameters.height):
            warnings.append(tiles)
        return tuple(warnings)

    def load(self) -> None:
        quiet_loading_bars()
        loaded = self.files.load(
            self.files.modules(encoders=False), self.dtype, self.destination, self.transformer_destination
        )
        given = {**loaded, **dict.fromkeys((*self.files.modules(encoders=True), *self.files.absent))}
        with loading(self.files.source.directory):
            self._pipe = self.files.kind.from_pretrained(
                self.files.source.directory, torch_dtype=self.dtype, local_files_only=True, **given
            )
        self._absent = AbsentEncoders(self._pipe, self.files, self.dtype)
        self._parts = list(loaded.values())
        for part in loaded.values():
            # As in a bare script: for weights without gradients torch takes other kernels, whose last bits differ.
            if self.storage is None:
                part.requires_grad_(True)
            part.to(self.device)
        if self._upcasts:
            self.vae.to(torch.float32)
        if getattr(self._pipe, "watermark", None) is not None:
            self._pipe.watermark = None
        self._pipe.set_progress_bar_config(disable=True)

    @property
    def _upcasts(self) -> bool:
        """True if the VAE is one that the pipeline decodes with in float32, whatever its own precision."""
        return hasattr(self._pipe, "upcast_vae") and self.dtype == torch.float16 and self.vae.config.force_upcast

    @property
    def transformer(self) -> nn.Module:
        return backbone(self._pipe)  # type: ignore[no-any-return]

    @property
    def parts(self) -> list[nn.Module]:
        return self._parts

    @property
    def vae(self) -> Any:
        """The loaded VAE."""
        return self._pipe.vae

    @property
    def lora_family(self) -> str:
        return family_of(self.files.kind.__name__)

    def lora_names(self) -> NameTable:
        return replace(name_table(self.transformer, original_names(self.transformer)), texts=self.files.text_tables)

    def completed(self, parameters: SampleParameters) -> SampleParameters:
        own = own_values(self._pipe, parameters, self.files.signature)
        if argument_of("frame_count", self.files.signature):
            own["fps"] = frame_rate(self.files.kind.__name__, self.files.signature)
        return parameters.model_copy(update=own)

    def arguments(self, parameters: SampleParameters) -> dict[str, Any]:
        """What the pipeline is called with."""
        taken = arguments_of(parameters, self.files.signature)
        values = {argument: getattr(parameters, field) for field, argument in taken.items()}
        for field in PICTURES:
            if field in taken:
                values[taken[field]] = open_image(values[taken[field]], field)
        if "decode_chunk_size" in self.files.signature:
            values["decode_chunk_size"] = ALL_FRAMES
        generator = self.noise_generator(parameters.seed)
        return {"prompt": parameters.prompt, "generator": generator, **values}

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        encode_prompt = self._pipe.encode_prompt
        signature = inspect.signature(encode_prompt)
        made: Conditioning = {}
        count = 0
        encoders = PipelineEncoders(self.files, self.device, self.dtype, self.encoders, self.text_loras)

        def encoded(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            bound = signature.bind(*args, **kwargs)
            if "device" in bound.arguments:
                bound.arguments["device"] = self.device

            def compute() -> Conditioning:
                for name, part in encoders.loaded.items():
                    setattr(self._pipe, name, part)
                return calls.packed(encode_prompt(*bound.args, **bound.kwargs))

            key = text_key(self.files, self.dtype, self.text_loras, bound.arguments)
            found = compute() if key is None else cache.get(key, compute)
            if self._absent.in_place:
                repeat_without_encoders(lambda: encode_prompt(*bound.args, **bound.kwargs))
            made.update({f"{count}{name}": tensor for name, tensor in found.items()})
            count += 1
            return calls.unpacked({name: tensor.to(self.device) for name, tensor in found.items()})

        try:
            with calls.in_place_of(self._pipe, "encode_prompt", encoded), named_errors(self.files.kind.__name__):
                passed = calls.until(self._pipe, self._pipe, "prepare_latents", self.arguments(parameters))
        finally:
            self._absent.take_places()
            encoders.free()
        if not made:
            raise ModelError(f"{self.files.kind.__name__} draws its noise before it encodes: it cannot be sampled")
        self._check_noise(parameters, *passed)
        return made

    def _check_noise(self, parameters: SampleParameters, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise `PromptError` if the noise already is of another size. Other changes show when there are latents."""
        passed = inspect.signature(self._pipe.prepare_latents).bind(*args, **kwargs).arguments
        width, height = passed.get("width"), passed.get("height")
        if isinstance(width, int) and isinstance(height, int) and 4 * width > parameters.width:  # latents are fewer
            self._check_size(parameters, width, height)

    def denoise(self, parameters: SampleParameters, conditioning: Conditioning, on_step: OnStep) -> Denoised:
        steps = Steps(self._pipe, self.files.signature, self.total_steps(parameters), on_step, self._upcasts)
        texts = texts_of(conditioning)
        with (
            calls.in_place_of(self._pipe, "encode_prompt", lambda *_args, **_kwargs: next(texts)),
            steps.counted(),
        ):
            passed = calls.until(self._pipe, self.vae, "decode", {**self.arguments(parameters), **steps.arguments()})
        latents, call = decode_call(*passed)
        width, height, frames = size_of(self._pipe, latents)
        self._check_size(parameters, width, height)
        if self._bins:
            call = replace(call, scaled_to=(parameters.width, parameters.height))
        self._decode_calls[latents] = call
        facts = {"pipeline": self.files.kind.__name__, "scheduler": type(self._pipe.scheduler).__name__}
        facts |= {"vae_dtype": name_of(self.vae.dtype)}
        return Denoised(latents, facts, frames, self._said_of(parameters, frames))

    def _check_size(self, parameters: SampleParameters, width: int, height: int) -> None:
        """Raise `PromptError` if the pipeline makes another size than it is asked for, and does not scale it."""
        asked, name = (parameters.width, parameters.height), self.files.kind.__name__
        if not self._bins and (width, height) != asked:
            raise PromptError(
                f"{name} makes {width} x {height} pixels of {asked[0]} x {asked[1]}: give --w {width} --h {height}"
            )

    def _said_of(self, parameters: SampleParameters, frames: int) -> tuple[str, ...]:
        """What is to be said of the number of frames, if the prompt asks for another one."""
        asked, name = parameters.frame_count, self.files.kind.__name__
        if "frame_count" in parameters.left_to_model or asked == frames:
            return ()
        if argument_of("frame_count", self.files.signature) is None:
            return (f"--f is ignored: {name} makes single pictures",)
        return (f"--f {asked}: {name} makes {frames} frames of it",)

    @property
    def _bins(self) -> bool:
        """True if the pipeline samples at the nearest of some sizes, and scales the picture to what was asked for."""
        parameter = self.files.signature.get("use_resolution_binning")
        return parameter is not None and bool(parameter.default)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        call = self._decode_calls.get(latents, DecodeCall())
        for frames in frames_of(self._pipe, self.decoder, latents, call, vae):
            yield frames.transpose(0, 1)
