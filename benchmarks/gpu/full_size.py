"""Full-size models: seconds a step beside the bare pipeline, load, swap of a LoRA, decode, overlap."""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from engine_support import Recorder
from full_models import FullModel, build, write
from kit import (
    CUDA,
    DEVICE,
    MIB,
    Kit,
    Row,
    Skipped,
    apart,
    fastest,
    finish,
    free,
    host_memory,
    median,
    peak_memory,
    timed,
)
from rushes.checkpoints.safetensors import fingerprint
from rushes.wire.jobs import DRAFT_THRESHOLD, SampleJob, VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.lora.manager import RequestedLora
from rushes_service.models.registry import find
from samples import base_of, make_engine, make_job

RANK = 32
NO_SLOWER = 1.05


class Clock(Recorder):
    """When each step ended, as the GPU sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def step(self, done: int, total: int) -> None:
        if self.stages[-1] == "denoise":
            self.tick()
        super().step(done, total)

    def tick(self) -> None:
        finish()
        self.times.append(time.perf_counter())

    def seconds(self) -> float:
        """Of a step, the first one left out."""
        return median([after - before for before, after in pairwise(self.times)])


class FullSize:
    """One model's checks, in order: each builds on the one before."""

    def __init__(self, kit: Kit, model: FullModel) -> None:
        self.kit, self.model = kit, model
        self.small = kit.small or not CUDA
        self.shape = model.shape(self.small)
        self.directory: Path | None = None
        self.engine: Any = None
        self.bare_seconds: float | None = None
        self.latents: torch.Tensor | None = None

    def checks(self) -> dict[str, Callable[[], Row]]:
        """By name."""
        return {
            "bare pipeline": self.bare,
            "load": self.load,
            "steps": self.steps,
            "draft": self.draft,
            "swap": self.swap,
            "decode": self.decode,
            "overlap": self.overlap,
        }

    def bare(self) -> Row:
        """diffusers' own pipeline, no line of ours; then the weights are written as files."""
        transformer, vae = build(self.model, self.small)
        clock = Clock()
        with peak_memory() as peak:
            (bare_wan if self.model.family.startswith("wan") else bare_flux)(self, transformer, vae, clock)
        self.bare_seconds = clock.seconds()
        parameters = sum(part.numel() for part in transformer.parameters())
        seconds, self.directory = timed(lambda: write(self.kit, self.model, transformer, vae))
        return {"seconds_a_step": self.bare_seconds, "mib_above": peak.mib, "parameters": parameters,
                "seconds_to_write": round(seconds, 2), **self.shape}  # fmt: skip

    def spec(self) -> ModelSpec:
        if self.directory is None:
            raise Skipped("the model was not built")
        return ModelSpec(architecture=self.model.family, model=str(self.directory))

    def job(self, steps: int | None = None) -> SampleJob:
        shape = {**self.shape}
        options = {**self.model.options, "sample_steps": steps or self.model.steps, **shape}
        return make_job(self.kit, self.model.family, model=self.spec(), **options)

    def load(self) -> Row:
        """From files that the system has in its memory, to the first sample of a step."""
        job = self.job(1)
        self.engine = make_engine(self.kit)
        known = find(self.model.family)(job.model, torch.device(DEVICE), torch.bfloat16, None)
        for text in {job.prompt.prompt, job.prompt.negative_prompt} - {None}:
            self.engine.conditioning.write(known.text_key(text), self.model.text(self.small))
        host = host_memory()
        _, made = timed(lambda: self.engine.denoise(job, Recorder()))
        held = torch.cuda.memory_allocated() // MIB if CUDA else None
        files = sum(path.stat().st_size for path in self.directory.rglob("*.safetensors")) // MIB  # type: ignore[union-attr]
        return {"seconds": made.facts()["seconds"]["load"], "files_mib": files, "held_mib": held,
                "host_before": host, "host_after": host_memory()}  # fmt: skip

    def loaded(self) -> Any:
        if self.engine is None:
            raise Skipped("the model was not loaded")
        return self.engine

    def steps(self) -> Row:
        """The engine's steps beside the bare pipeline's."""
        engine, clock = self.loaded(), Clock()
        with peak_memory() as peak:
            self.latents = engine.denoise(self.job(), clock).latents
        ours, bare = clock.seconds(), self.bare_seconds or float("nan")
        finite = bool(self.latents.isfinite().all())
        ok = finite and (not CUDA or self.small or ours <= NO_SLOWER * bare)
        return {"ok": ok, "seconds_a_step": ours, "bare": bare, "ratio": round(ours / bare, 4), "mib_above": peak.mib,
                "finite": finite}  # fmt: skip

    def draft(self) -> Row:
        """A draft beside the exact sample: seconds a step over all of them, and how far its latents are."""
        engine, clock, exact = self.loaded(), Clock(), self.latents
        if exact is None:
            raise Skipped("there is no exact sample")
        made = engine.denoise(self.job().model_copy(update={"draft": DRAFT_THRESHOLD}), clock)
        mean = (clock.times[-1] - clock.times[0]) / (len(clock.times) - 1)
        error = (made.latents - exact).float().square().mean().sqrt().item()
        peak = (exact.max() - exact.min()).item()
        return {"ok": bool(made.latents.isfinite().all()), "seconds_a_step": round(mean, 4), **made.facts()["draft"],
                "psnr_db": round(20 * math.log10(peak / error), 1) if error else None}  # fmt: skip

    def swap(self) -> Row:
        """Two LoRAs of rank 32 in all linear layers of the blocks, in turn; then none."""
        manager, transformer = self.loaded().loaded.loras, base_of(self.engine).transformer
        modules = transformer.named_modules()
        linears = {name: part for name, part in modules if isinstance(part, nn.Linear) and "blocks" in name}
        files = [write_lora(self.kit.home / f"full-{seed}.safetensors", linears, seed) for seed in (1, 2)]
        wanted = [(RequestedLora(file, fingerprint(file), 1.0, extra=False),) for file in files]
        live = [part.weight.data for part in linears.values()]
        before = [weight.clone() for weight in live]
        first, _ = timed(lambda: manager.apply(wanted[0]))
        swaps = [timed(lambda turn=turn: manager.apply(wanted[turn % 2]))[0] for turn in (1, 2, 3)]
        mode = manager.merger.mode
        restore, _ = timed(lambda: manager.apply(()))
        exact = all(torch.equal(weight, kept) for weight, kept in zip(live, before, strict=True))
        read = fastest(lambda: hashlib.sha256(files[0].read_bytes()))
        copied = fastest(lambda: torch._foreach_copy_(live, before))
        seconds = {
            "first": first,
            "swap": median(swaps),
            "restore": restore,
            "read_and_hash_a_file": read,
            "copy_the_weights": copied,
        }
        return {
            "ok": exact,
            "merge": mode,
            "linears": len(linears),
            "file_mib": files[0].stat().st_size // MIB,
            "weights_mib": sum(weight.nbytes for weight in live) // MIB,
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            "host": host_memory(),
        }

    def decode(self) -> Row:
        """The product's decode beside diffusers' whole one: seconds and peak memory."""
        base = base_of(self.loaded())
        latents = self.latents if self.latents is not None else self.engine.denoise(self.job(1), Recorder()).latents
        rows: Row = {}
        pixels = {}
        for name, work in (
            ("ours", lambda: product_decode(base, latents)),
            ("diffusers", lambda: plain_decode(base, latents)),
        ):
            with peak_memory() as peak:
                seconds, pixels[name] = timed(work)
            rows[name] = {"seconds": round(seconds, 3), "mib_above": peak.mib}
        off = apart(pixels["ours"], pixels["diffusers"])
        return {"ok": off["max"] < 0.01, "apart": off, **rows}

    def overlap(self) -> Row:
        """A decode in the background while the next clip is denoised, as a worker does it, and both in turn."""
        engine = self.loaded()
        first = engine.denoise(self.job(2), Recorder())
        alone, _ = timed(lambda: [part.cpu() for part in first.pixels()])
        denoising, second = timed(lambda: engine.denoise(self.job(4), Recorder()))
        seconds: dict[str, float] = {}

        def decode() -> None:
            start = time.perf_counter()
            for part in second.pixels():
                part.cpu()
            seconds["decode_beside"] = time.perf_counter() - start

        def both() -> None:
            second.hand_over()
            thread = Thread(target=decode)
            thread.start()
            seconds["denoise_beside"], _ = timed(lambda: engine.denoise(self.job(4), Recorder()))
            thread.join()

        seconds["both"], _ = timed(both)
        seconds |= {"decode": alone, "denoise": denoising}
        return {"ok": seconds["both"] < 1.05 * (alone + denoising) or not CUDA or self.small,
                "seconds": {name: round(value, 2) for name, value in seconds.items()}}  # fmt: skip

    def close(self) -> None:
        """Give memory and disk back."""
        self.engine = self.latents = None
        free()
        if self.directory is not None:
            shutil.rmtree(self.directory)


def bare_wan(full: FullSize, transformer: Any, vae: Any, clock: Clock) -> None:
    from diffusers import UniPCMultistepScheduler, WanPipeline

    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = WanPipeline(tokenizer=None, text_encoder=None, transformer=transformer, vae=vae, scheduler=scheduler)
    texts = [full.model.text(full.small)["embeds"].to(DEVICE) for _ in range(2)]
    shape = {"width": full.shape["width"], "height": full.shape["height"], "num_frames": full.shape["frames"]}
    conditions = {"prompt_embeds": texts[0], "negative_prompt_embeds": texts[1], "guidance_scale": 5.0}
    run_bare(pipe, clock, num_inference_steps=full.model.steps, **conditions, **shape)


def bare_flux(full: FullSize, transformer: Any, vae: Any, clock: Clock) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline

    parts = dict.fromkeys(("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"))
    pipe = FluxKontextPipeline(
        transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), **parts
    )
    texts = {name: value.to(DEVICE) for name, value in full.model.text(full.small).items()}
    shape = {"width": full.shape["width"], "height": full.shape["height"], "_auto_resize": False}
    area = full.shape["width"] * full.shape["height"]
    run_bare(pipe, clock, num_inference_steps=full.model.steps, guidance_scale=2.5, max_area=area, **texts, **shape)


def run_bare(pipe: Any, clock: Clock, **arguments: Any) -> None:
    pipe.set_progress_bar_config(disable=True)

    def ended(_pipe: Any, _index: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        clock.tick()
        return {}

    pipe(**arguments, output_type="latent", callback_on_step_end=ended)


def write_lora(path: Path, linears: dict[str, nn.Linear], seed: int) -> Path:
    """A LoRA file in diffusers' names and bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, part in linears.items():
        shapes = {"A": (RANK, part.in_features), "B": (part.out_features, RANK)}
        for half, shape in shapes.items():
            tensors[f"transformer.{name}.lora_{half}.weight"] = (
                torch.randn(*shape, generator=generator).bfloat16() * 0.02
            )
    save_file(tensors, path)
    return path


def product_decode(base: Any, latents: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.cpu() for part in base.decode(latents, VaeOptions())], dim=1)


@torch.no_grad()
def plain_decode(base: Any, latents: torch.Tensor) -> torch.Tensor:
    """diffusers' decode of a whole clip or picture."""
    vae = base.vae
    if base.spec.name.startswith("wan"):
        from rushes_service.models.wan.inputs import unscaled

        pixels = vae.decode(unscaled(vae, latents), return_dict=False)[0][0]
    else:
        scaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(scaled, return_dict=False)[0][0][:, None]
    return (pixels.float() / 2 + 0.5).clamp(0, 1).cpu()
