"""How long it takes to go from one LoRA to the next, against reading its file and writing the weights once.

Nobody can be faster than that floor and still have merged weights: the file has to be read, and every weight that the
LoRA touches has to be written. A second floor multiplies, too: it writes the bare product of the factors, one
`torch.mm` for each weight, without base, scale, checks or names. Afterwards the base must come back to the last bit.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import WanPipeline, WanTransformer3DModel

from harness import Report, Round, medians, new_round, parser, publish, ratios, rounds_of, timed
from lora_model import LAYERS, build, write_lora
from rushes.checkpoints.safetensors import fingerprint
from rushes_service.lora.manager import LoraManager, RequestedLora
from rushes_service.models.wan.names import wan_names

FLOOR, SUBJECT = "floor: read + write once", "Rushes"
PRODUCT = "read + write the bare product"
STRENGTH = "Rushes, same file, new strength"
SWAPS = 100
"""After so many the base must be bit-exact."""

TURNS = 2
"""Swaps of each contestant in a round."""

FUSES = 8
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    """Run the benchmark."""
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    report = Report("lora_swap", "Time of a LoRA swap / (read the file + write the weights once)")
    for name, dtype in DTYPES.items():
        with tempfile.TemporaryDirectory() as scratch:
            measure(report, name, dtype, Path(scratch), args.quick, rounds_of(args))
        gc.collect()
    report.conditions |= {"threads": args.threads}
    publish(report, args, packages=("torch", "diffusers", "peft"))


def measure(report: Report, name: str, dtype: torch.dtype, scratch: Path, quick: bool, rounds: int) -> None:
    """All contestants in one precision."""
    layers = 1 if quick else LAYERS
    model = build(dtype, layers)
    ours = Ours(model, dtype, scratch)
    found: list[Round] = []
    peers = Peers(build(dtype, layers), dtype, scratch)
    floors = {FLOOR: ours.floor, PRODUCT: ours.product}
    contestants = {**floors, SUBJECT: ours.swap, STRENGTH: ours.strength, **peers.contestants()}
    for contestant in contestants.values():
        contestant(0)
    for index in range(rounds):
        taken = new_round()
        for turn in range(1 if quick else TURNS):
            for title, contestant in contestants.items():
                taken[title].append(timed(contestant, TURNS * index + turn + 1))
        found.append(taken)
    report.add(f"{name}: {SUBJECT}", ratios(found, SUBJECT, FLOOR), goal=1.5)
    report.add(f"{name}: {SUBJECT} / {PRODUCT}", ratios(found, SUBJECT, PRODUCT))
    for title in (title for title in contestants if title not in (FLOOR, SUBJECT)):
        report.add(f"{name}: {title}", ratios(found, title, FLOOR))
    report.add(f"{name}: floor", [value * 1e3 for value in medians(found, FLOOR)], unit="ms")
    report.add(f"{name}: {SUBJECT}", [value * 1e3 for value in medians(found, SUBJECT)], unit="ms")
    report.add(f"{name}: weights that differ, Rushes", [ours.changed(10 if quick else SWAPS)], unit="%", goal=0)
    report.add(f"{name}: weights that differ, fuse/unfuse", [peers.changed(2 if quick else FUSES)], unit="%")
    size = ours.files[0].place.stat().st_size
    report.conditions |= {"parameters": f"{ours.parameters / 1e6:.0f}M", f"{name} file": f"{size / 1e6:.0f} MB"}


class Ours:
    """Rushes, and the floor over the same weights."""

    def __init__(self, model: WanTransformer3DModel, dtype: torch.dtype, scratch: Path) -> None:
        self.model = model
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        paths = [
            write_lora(model, scratch / f"{seed}.safetensors", dtype, seed=seed, style="musubi") for seed in (1, 2)
        ]
        self.files = [RequestedLora(path, fingerprint(path), 1.0, extra=False) for path in paths]
        self.rack = LoraManager(model, lambda: wan_names(model), "wan2.1-t2v")
        self.rack.apply([self.files[0]])
        patches = [patch for lora in self.rack._read.values() for patch in lora.patches]
        self.pairs = [(torch.empty_like(self.base[patch.parameter]), self.base[patch.parameter]) for patch in patches]
        self.factors = [(patch.change.up, patch.change.down) for patch in patches]

    def floor(self, _: int) -> None:
        """Read the file's bytes, write each touched weight once."""
        self.files[0].place.read_bytes()
        for target, source in self.pairs:
            target.copy_(source)

    def product(self, _: int) -> None:
        """Read the file's bytes, write up @ down where the weights would be."""
        self.files[0].place.read_bytes()
        for (target, _base), (up, down) in zip(self.pairs, self.factors, strict=True):
            torch.mm(up, down, out=target)

    def swap(self, turn: int) -> None:
        """The other file than the last one; nothing of it is in memory."""
        self.rack.apply([self.files[turn % 2]])

    def strength(self, turn: int) -> None:
        """The file that is in the weights, at another strength."""
        held = self.files[turn % 2]
        self.rack.apply([RequestedLora(held.place, held.fingerprint, 0.5 + turn / 1000, extra=False)])

    def changed(self, swaps: int) -> float:
        """Share of the weights, in percent, that are not the base's after so many swaps and a restore."""
        for turn in range(swaps):
            self.swap(turn)
        self.rack.apply([])
        return different(self.model, self.base)


class Peers:
    """diffusers' own ways over a transformer of the same size."""

    def __init__(self, model: WanTransformer3DModel, dtype: torch.dtype, scratch: Path) -> None:
        self.pipe = WanPipeline(None, None, None, None, transformer=model)
        self.base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.files = [
            write_lora(model, scratch / f"peer-{seed}.safetensors", dtype, seed=seed, style="diffusers")
            for seed in (1, 2)
        ]

    def contestants(self) -> dict[str, Callable[[int], None]]:
        """By name; each leaves the pipeline as the next one wants it."""
        return {
            "load_lora_weights + unload": self.load,
            "load_lora_weights(hotswap=True)": self.hotswap,
            "fuse_lora + unfuse_lora": self.fuse,
        }

    def load(self, turn: int) -> None:
        """Take the old adapter out, put the new one in."""
        self.pipe.unload_lora_weights()
        self.pipe.load_lora_weights(self.files[turn % 2], adapter_name="a")

    def hotswap(self, turn: int) -> None:
        """Write the new factors over the old ones."""
        self.pipe.load_lora_weights(self.files[turn % 2], adapter_name="a", hotswap=True)

    def fuse(self, turn: int) -> None:
        """Merge the adapter and take it out again by subtraction."""
        self.load(turn)
        self.pipe.fuse_lora(components=["transformer"])
        self.pipe.unfuse_lora(components=["transformer"])

    def changed(self, times: int) -> float:
        """Share of the weights, in percent, that are not the base's after fusing and unfusing so often."""
        for turn in range(times):
            self.fuse(turn)
        self.pipe.unload_lora_weights()
        return different(self.pipe.transformer, self.base)


def different(model: torch.nn.Module, base: dict[str, torch.Tensor]) -> float:
    """Percentage of elements that are not those of `base`."""
    state = model.state_dict()
    wrong = sum(int((state[name] != tensor).sum()) for name, tensor in base.items())
    return 100 * wrong / sum(tensor.numel() for tensor in base.values())


if __name__ == "__main__":
    main()
