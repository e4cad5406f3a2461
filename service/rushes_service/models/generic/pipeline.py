"""Any pipeline of diffusers, sampled as a bare script would: same seed, same picture, to the bit.

The pipeline's own `__call__` makes the sample. It is called twice: for a new text until it draws its noise, with its
encoders, and then with the embeddings that the first call made, until it decodes. So encoders are loaded only for texts
that are new, and the decode is a stage of its own.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import diffusers
import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from rushes.errors import PromptError, first_line
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
from rushes_service.models.generic.encoders import PipelineEncoders
from rushes_service.models.generic.names import family_of, original_names
from rushes_service.models.generic.source import PipelineFiles, backbone, default_size, find_pipeline
from rushes_service.models.inputs.images import open_image
from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.from_repo import quiet_loading_bars
from rushes_service.models.vae.kl import decode_kl, plan_kl_tiles
from rushes_service.runtime.devices import name_of

ARGUMENT_OF_FIELD: Mapping[str, str] = {
    "width": "width",
    "height": "height",
    "sample_steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "cfg_scale": "true_cfg_scale",
    "negative_prompt": "negative_prompt",
    "image_path": "image",
}
"""What options are called in pipelines. `--l` is `guidance_scale` where there is no `true_cfg_scale`."""


class AnyPipeline(Architecture):
    """diffusers."""

    spec: ClassVar[ArchitectureSpec] = DIFFUSERS

    def __init__(
        self, model: ModelSpec, device: torch.device, dtype: torch.dtype, file_hashes: FileHashCache | None = None
    ) -> None:
        super().__init__(model, device, dtype, file_hashes)
        self.files: PipelineFiles = find_pipeline(model, self.spec, self.file_hashes)
        self._text_files: str | None = None
        self._pipe: Any = None
        self._binned: Any = WeakTensorKeyDictionary()
        """Width and height that the pictures of some latents are scaled to."""

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        if parameters.image_path is not None:
            open_image(parameters.image_path, "image_path")

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        name, taken = self.files.kind.__name__, self.arguments_of(parameters)
        warnings = [
            f"{OPTION_OF_FIELD[field]} is ignored: {name} takes no {argument}"
            for field, argument in given(parameters).items()
            if field not in taken
        ]
        if self.model.vae_dtype is not None:
            warnings.append(f"--vae_dtype is ignored: {name} decodes in the precision of the whole")
        if vae.chunk_size is not None:
            warnings.append("--vae_chunk_size changes nothing for a pipeline of pictures")
        if tiles := plan_kl_tiles(vae, parameters.width, parameters.height):
            known = isinstance(self.vae, diffusers.AutoencoderKL)
            said = f"decoded in tiles of {tiles.size} pixels: approximate at their seams"
            warnings.append(said if known else f"--vae_tiling is ignored: the VAE is a {type(self.vae).__name__}")
        return tuple(warnings)

    def arguments_of(self, parameters: SampleParameters) -> dict[str, str]:
        """The pipeline's argument for each option that the prompt gives and the pipeline takes."""
        known = self.files.signature
        found = {field: argument for field, argument in given(parameters).items() if argument in known}
        only = "cfg_scale" in given(parameters) and not {"cfg_scale", "guidance_scale"} & found.keys()
        if only and "guidance_scale" in known:
            found["cfg_scale"] = "guidance_scale"
        return found

    def load(self) -> None:
        quiet_loading_bars()
        loaded = self.files.load(
            self.files.modules(encoders=False), self.dtype, self.destination, self.transformer_destination
        )
        absent = dict.fromkeys(self.files.modules(encoders=True))
        with loading(self.files.source.directory):
            self._pipe = self.files.kind.from_pretrained(
                self.files.source.directory, torch_dtype=self.dtype, local_files_only=True, **loaded, **absent
            )
        for part in loaded.values():
            part.requires_grad_(False).to(self.device)
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
    def vae(self) -> Any:
        """The loaded VAE."""
        return self._pipe.vae

    @property
    def lora_family(self) -> str:
        return family_of(self.files.kind.__name__)

    def lora_names(self) -> NameTable:
        return replace(name_table(self.transformer, original_names(self.transformer)), texts=self.files.text_tables)

    def completed(self, parameters: SampleParameters) -> SampleParameters:
        own: dict[str, Any] = {}
        for field in parameters.left_to_model:
            parameter = self.files.signature.get(ARGUMENT_OF_FIELD[field])
            default = None if parameter is None else parameter.default
            if field in ("width", "height") and not isinstance(default, int):
                default = default_size(self._pipe)
                if default is None:
                    raise PromptError(f"{self.files.kind.__name__} has no size of its own: give --w and --h")
            if field == "sample_steps" and not isinstance(default, int):
                raise PromptError(f"{self.files.kind.__name__} has no number of steps of its own: give --s")
            if isinstance(default, (int, float)):
                own[field] = default
        return parameters.model_copy(update=own)

    def arguments(self, parameters: SampleParameters) -> dict[str, Any]:
        """What the pipeline is called with."""
        values = {argument: getattr(parameters, field) for field, argument in self.arguments_of(parameters).items()}
        if "image" in values:
            values["image"] = open_image(values["image"], "image_path")
        generator = self.noise_generator(parameters.seed)
        return {"prompt": parameters.prompt, "generator": generator, **values}

    def text_key(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """Cache key of what `encode_prompt` makes of its arguments; None if some of them have no text form."""
        if self._text_files is None:
            self._text_files = self.files.texts_fingerprint()
        said = {name: value for name, value in arguments.items() if name not in ("self", "device")}
        try:
            text = json.dumps(said, sort_keys=True)
        except TypeError:
            return None
        about: dict[str, Any] = {
            "files": self._text_files,
            "dtype": name_of(self.dtype),
            "diffusers": diffusers.__version__,
        }
        if loras := self.text_loras.key(tuple(self.files.modules(encoders=True))):
            about["loras"] = loras
        return {"kind": self.files.kind.__name__, **about, "arguments": text}

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

            key = self.text_key(bound.arguments)
            found = compute() if key is None else cache.get(key, compute)
            made.update({f"{count}{name}": tensor for name, tensor in found.items()})
            count += 1
            return calls.unpacked({name: tensor.to(self.device) for name, tensor in found.items()})

        try:
            with calls.in_place_of(self._pipe, "encode_prompt", encoded), named_errors(self.files.kind.__name__):
                calls.until(self._pipe, self._pipe, "prepare_latents", self.arguments(parameters))
        finally:
            for name in self.files.modules(encoders=True):
                setattr(self._pipe, name, None)
            encoders.free()
        return made

    def denoise(self, parameters: SampleParameters, conditioning: Conditioning, on_step: OnStep) -> Denoised:
        arguments = {**self.arguments(parameters), **self._callback(parameters, on_step)}
        texts = iter(texts_of(conditioning))
        with calls.in_place_of(self._pipe, "encode_prompt", lambda *_args, **_kwargs: next(texts)):
            latents = calls.until(self._pipe, self.vae, "decode", arguments)[0]
        self._note_size(latents, parameters)
        facts = {"pipeline": self.files.kind.__name__, "scheduler": type(self._pipe.scheduler).__name__}
        return Denoised(latents, {**facts, "vae_dtype": name_of(self.vae.dtype)})

    def _callback(self, parameters: SampleParameters, on_step: OnStep) -> dict[str, Any]:
        """The argument by which the pipeline tells of its steps."""
        total = self.total_steps(parameters)

        def step_ended(pipe: Any, index: int, _timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
            on_step(min(index + 1, total), total, tensors["latents"])
            # What the pipeline does by itself with a VAE in float16.
            last = index + 1 == len(pipe.scheduler.timesteps)
            return {"latents": tensors["latents"].float()} if last and self._upcasts else {}

        if "callback_on_step_end" in self.files.signature:
            return {"callback_on_step_end": step_ended}
        return {"callback": lambda index, _time, latents: on_step(min(index + 1, total), total, latents)}

    def _note_size(self, latents: torch.Tensor, parameters: SampleParameters) -> None:
        """Raise `PromptError` if the picture becomes another size than asked for; remember what it is scaled to."""
        ratio, asked = self._pipe.vae_scale_factor, (parameters.width, parameters.height)
        height, width = (size * ratio for size in latents.shape[-2:])
        if self._bins:
            self._binned[latents] = asked
        elif (width, height) != asked:
            raise PromptError(
                f"{self.files.kind.__name__} makes {width} x {height} pixels of {asked[0]} x {asked[1]}: "
                f"give --w {width} --h {height}"
            )

    @property
    def _bins(self) -> bool:
        """True if the pipeline samples at the nearest of some sizes, and scales the picture to what was asked for."""
        parameter = self.files.signature.get("use_resolution_binning")
        return parameter is not None and bool(parameter.default)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        model, ratio = self.decoder, self._pipe.vae_scale_factor
        height, width = (size * ratio for size in latents.shape[-2:])
        if isinstance(model, diffusers.AutoencoderKL) and plan_kl_tiles(vae, width, height):
            image = decode_kl(model, latents, vae)
        else:
            image = model.decode(latents, return_dict=False)[0]
        if asked := self._binned.get(latents):
            image = self._pipe.image_processor.resize_and_crop_tensor(image, *asked)
        yield self._pipe.image_processor.postprocess(image, output_type="pt")[0, :, None].float()


def given(parameters: SampleParameters) -> dict[str, str]:
    """The usual argument of each option that the prompt gives."""
    return {
        field: argument
        for field, argument in ARGUMENT_OF_FIELD.items()
        if field not in parameters.left_to_model and getattr(parameters, field) is not None
    }


def texts_of(conditioning: Conditioning) -> list[Any]:
    """What `encode_prompt` returned, call by call."""
    found: dict[int, Conditioning] = {}
    for name, tensor in conditioning.items():
        number, dot, rest = name.partition(".")
        found.setdefault(int(number), {})[dot + rest] = tensor
    return [calls.unpacked(found[number]) for number in sorted(found)]


@contextlib.contextmanager
def named_errors(pipeline: str) -> Iterator[None]:
    """Turn what a pipeline says of its arguments into `PromptError`."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise PromptError(f"{pipeline}: {first_line(error)}") from error
