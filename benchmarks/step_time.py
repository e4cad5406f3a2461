"""What a LoRA costs at each denoising step: merged into the weights, beside them, and without any.

Also whether compiled blocks stay compiled when the LoRA changes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import WanPipeline, WanTransformer3DModel

from harness import Report, Round, medians, new_round, parser, publish, ratios, rounds_of, timed
from lora_model import TEXT_DIM, build, write_lora
from rushes.checkpoints.safetensors import fingerprint
from rushes_service.lora.manager import LoraManager, RequestedLora
from rushes_service.models.wan.names import wan_names

BARE, SUBJECT = "bare base", "Rushes, merged"
TWIN = "bare base again"
"""A second time: how far apart two equal things are on this machine."""

LAYERS = 2

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LATENTS = (1, 16, 3, 16, 16)
"""192 tokens: enough that matrix products dominate, as in life."""

STEPS = 8
"""Steps of each contestant in a round, in turn."""


def main() -> None:
    """Run the benchmark."""
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    report = Report("step_time", "Time of a denoising step with a LoRA / without")
    for name, dtype in DTYPES.items():
        with tempfile.TemporaryDirectory() as scratch:
            measure(report, name, Bench(dtype, Path(scratch), args.quick), args)
    report.add("graphs compiled anew by three swaps", [recompiled()], unit="", goal=0)
    report.conditions |= {"threads": args.threads, "tokens": LATENTS[2] * LATENTS[3] * LATENTS[4] // 4}
    publish(report, args, packages=("torch", "diffusers", "peft"))


def measure(report: Report, name: str, bench: Bench, args: argparse.Namespace) -> None:
    """All contestants in one precision."""
    rounds: list[Round] = []
    for contestant in bench.contestants.values():
        contestant()
    for _ in range(rounds_of(args)):
        taken = new_round()
        for _ in range(2 if args.quick else STEPS):
            for title, contestant in bench.contestants.items():
                bench.before.get(title, lambda: None)()
                taken[title].append(timed(contestant))
        rounds.append(taken)
    report.add(f"{name}: {SUBJECT}", ratios(rounds, SUBJECT, BARE), goal=1.01)
    for title in (title for title in bench.contestants if title not in (BARE, SUBJECT)):
        report.add(f"{name}: {title}", ratios(rounds, title, BARE))
    report.add(f"{name}: {BARE}", [value * 1e3 for value in medians(rounds, BARE)], unit="ms")


class Bench:
    """One transformer that takes a LoRA and gives it back, and one with an adapter beside its weights."""

    def __init__(self, dtype: torch.dtype, scratch: Path, quick: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = (
            torch.randn(*LATENTS, generator=generator).to(dtype),
            torch.tensor([500]),
            torch.randn(1, 512, TEXT_DIM, generator=generator).to(dtype),
        )
        layers = 1 if quick else LAYERS
        model, beside = build(dtype, layers), build(dtype, layers)
        path = write_lora(model, scratch / "ours.safetensors", dtype, seed=1, style="musubi")
        rack, lora = rack_of(model), wanted(path)
        pipe = WanPipeline(None, None, None, None, transformer=beside)
        path = write_lora(beside, scratch / "peer.safetensors", dtype, seed=1, style="diffusers")
        pipe.load_lora_weights(path, adapter_name="a")
        self.contestants: dict[str, Callable[[], object]] = {
            BARE: self.step(model),
            SUBJECT: self.step(model),
            TWIN: self.step(model),
            "load_lora_weights (PEFT, unmerged)": self.step(beside),
        }
        self.before: dict[str, Callable[[], object]] = {
            BARE: lambda: rack.apply([]),
            SUBJECT: lambda: rack.apply([lora]),
            TWIN: lambda: rack.apply([]),
        }

    def step(self, model: WanTransformer3DModel) -> Callable[[], object]:
        """One forward pass."""

        @torch.no_grad()
        def run() -> object:
            return model(*self.inputs)

        return run


def rack_of(model: WanTransformer3DModel) -> LoraManager:
    """The LoRA state of a model."""
    return LoraManager(model, lambda: wan_names(model), "wan2.1-t2v")


def wanted(path: Path) -> RequestedLora:
    """A file at full strength."""
    return RequestedLora(path, fingerprint(path), 1.0, extra=False)


@torch.no_grad()
def recompiled() -> int:
    """Graphs that are compiled after the first step while LoRAs come and go."""
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> object:
        compiled.append(graph)
        return graph.forward

    model = build(torch.float32, 1)
    for block in model.blocks:
        block.compile(backend=backend)
    inputs = torch.randn(*LATENTS), torch.tensor([500]), torch.randn(1, 512, TEXT_DIM)
    model(*inputs)
    first = len(compiled)
    rack = rack_of(model)
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(3):
            path = write_lora(model, Path(scratch) / f"{seed}.safetensors", torch.float32, seed=seed, style="musubi")
            rack.apply([wanted(path)])
            model(*inputs)
    return len(compiled) - first


if __name__ == "__main__":
    main()
