"""Loading a model: memory of the host above the model's own bytes, and time beside reading its files once.

Each load runs in a process of its own, which notes its size after the imports and the kernel's high-water mark at the
end. Files are in the system's cache. Peers: diffusers' `from_pretrained`, and `from_pretrained` followed by the copy
that a device needs (its weights lie in the mapped file until they are first used).
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.utils import logging

from harness import Report, Round, new_round, parser, publish, ratios, rounds_of
from lora_model import LAYERS, build
from rushes_service.models.loading.directories import loaded

SHARD = "500MB"
CASES = {"float32 file, bfloat16 model": torch.bfloat16, "float32 file, float32 model": torch.float32}
OURS = "ours"
READ = "read"
COPIED = "from_pretrained, copied"
BLOCK = 16 << 20
FORKS = multiprocessing.get_context("forkserver")
"""Of a process that has imported all and computed nothing: torch's threads do not survive a fork."""

Loader = Callable[[Path, torch.dtype], Any]


def main() -> None:
    """Run the benchmark."""
    args = parser(__doc__.splitlines()[0]).parse_args()
    FORKS.set_forkserver_preload(["rushes_service.models.loading.from_repo", "diffusers.models.transformers"])
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    report = Report("load_model", "Loading a Wan transformer from its directory, in shards")
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        build(torch.float32, 1 if args.quick else LAYERS).save_pretrained(directory, max_shard_size=SHARD)
        for case, dtype in CASES.items():
            rounds = [one_round(directory, dtype) for _ in range(rounds_of(args))]
            add_rows(report, rounds, case)
    publish(report, args, packages=("torch", "diffusers", "safetensors"))


def ours(directory: Path, dtype: torch.dtype) -> Any:
    """As the worker does it."""
    return loaded(directory, WanTransformer3DModel, dtype)


def pretrained(directory: Path, dtype: torch.dtype) -> Any:
    """diffusers' own way. What is not converted stays in the mapped file."""
    return WanTransformer3DModel.from_pretrained(directory, torch_dtype=dtype)


def copied(directory: Path, dtype: torch.dtype) -> Any:
    """The same, and each weight copied, as to a device."""
    model = pretrained(directory, dtype)
    for weight in model.parameters():
        weight.data = weight.data.clone()
    return model


def read(directory: Path, _dtype: torch.dtype) -> None:
    """The files, once, into one buffer."""
    buffer = bytearray(BLOCK)
    for file in directory.glob("*.safetensors"):
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


LOADERS: dict[str, Loader] = {OURS: ours, "from_pretrained": pretrained, COPIED: copied, READ: read}


def one_round(directory: Path, dtype: torch.dtype) -> Round:
    """Seconds, and the memory of each loader above the model's bytes as a part of them."""
    taken = new_round()
    for name in LOADERS:
        here, there = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=tell_measured, args=(there, name, directory, dtype))
        process.start()
        seconds, above = here.recv()
        process.join()
        taken[name].append(seconds)
        taken[f"{name} memory"].append(above)
    return taken


def tell_measured(result: Connection, *load: Any) -> None:
    """Send what `measured` gives."""
    result.send(measured(*load))


def measured(name: str, directory: Path, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of one load, and its peak memory above the model's bytes, as a part of them."""
    torch.set_num_threads(1)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    model = LOADERS[name](directory, dtype)
    seconds = time.perf_counter() - began
    size = sum(weight.nbytes for weight in model.state_dict().values()) if model is not None else 0
    return seconds, (memory("VmHWM") - before - size) / size if size else 0.0


def memory(field: str) -> int:
    """A size in /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def add_rows(report: Report, rounds: list[Round], case: str) -> None:
    """Memory of everybody, and time by that of reading the files."""
    for name in (OURS, "from_pretrained", COPIED):
        above = [taken[f"{name} memory"][0] for taken in rounds]
        report.add(
            f"{name}: peak memory above the model, {case}", above, "of the model", goal=0.1 if name == OURS else None
        )
    for name in (OURS, "from_pretrained", COPIED):
        goal = 1.3 if name == OURS else None
        report.add(f"{name}: time ÷ reading the files, {case}", ratios(rounds, name, READ), goal=goal)


if __name__ == "__main__":
    main()
