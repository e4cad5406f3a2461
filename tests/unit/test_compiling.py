"""`--compile`: how many graphs there are, what they make, and that the next process finds them again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine_support import write_lora
from rushes_service.engine.kernels.compiling import MOST_GRAPHS, BlockCompiler, keep_graphs

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="TorchInductor compiles with g++")

SWAPS = """
import json, sys
from pathlib import Path
from engine_support import Recorder, make_job
from rushes_service.engine.kernels.compiling import keep_graphs

model, loras, cache = map(Path, sys.argv[1:])
keep_graphs(cache)

from torch._dynamo.utils import counters
from rushes_service.engine.engine import Engine

files = sorted(loras.glob("*"))
jobs = [
    make_job(
        model,
        files[index % len(files)],
        prompt="a red ball" + " and another" * (index % 3),
        width=32 + 16 * (index % 4),
        frame_count=5 + 4 * (index % 2),
        lora_multiplier=1.0 + index % 5,
        sample_steps=1,
    )
    for index in range(20)
]
eager, engine = Engine("cpu", cache, batching="off"), Engine("cpu", cache, compiled=True)
(first,) = [engine.denoise(jobs[0], Recorder())]
assert (first.latents == eager.denoise(jobs[0], Recorder()).latents).all()
engine.compiler.wait()
samples = [engine.denoise(job, Recorder()) for job in jobs]
plain = [eager.denoise(job, Recorder()) for job in jobs]
apart = max(float((one.latents - other.latents).abs().max()) for one, other in zip(samples, plain))
found = sum(count for name, count in counters["inductor"].items() if name.endswith("cache_hit"))
print(json.dumps({
    "first": first.facts()["compiled"],
    "then": [sample.facts()["compiled"] for sample in samples],
    "apart": apart,
    "graphs": counters["stats"]["unique_graphs"],
    "found": found,
}))
"""


def swapped(model: Path, loras: Path, cache: Path) -> dict[str, Any]:
    """What a process of its own says about twenty samples."""
    done = subprocess.run(
        [sys.executable, "-c", SWAPS, str(model), str(loras), str(cache)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TORCHINDUCTOR_COMPILE_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(3200)
def test_one_graph_serves_every_lora_strength_prompt_and_size_and_is_found_again(
    tiny_wan: Path, tmp_path: Path
) -> None:
    (tmp_path / "loras").mkdir()
    for seed in range(7):
        write_lora(tmp_path / "loras" / f"{seed}.safetensors", seed=seed)
    said = swapped(tiny_wan, tmp_path / "loras", tmp_path / "cache")
    assert said["first"]["by_graph"] == 0  # it does not wait for a graph
    assert all(calls["by_graph"] == calls["block_calls"] > 0 for calls in said["then"])
    assert (said["graphs"], said["found"]) == (1, 0)
    assert said["apart"] < 1e-4
    again = swapped(tiny_wan, tmp_path / "loras", tmp_path / "cache")
    assert again["found"] == 1
    assert again["apart"] == said["apart"]


class Blocks(nn.Module):
    """A transformer of blocks that cannot be compiled, or take numbers that are part of a graph."""

    _repeated_blocks = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, scale: float) -> torch.Tensor:
        return self.block(torch.ones(2), scale)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, tokens: torch.Tensor, scale: float) -> torch.Tensor:
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("not in a graph")
        return self.layer(tokens) * scale


def test_what_cannot_be_compiled_stays_as_it_is_and_so_does_what_has_hooks() -> None:
    model, compiler = Blocks(), BlockCompiler()
    expected = model(2.0)
    compiler.install([model])
    with compiler.counting(eager=True) as facts:
        assert torch.equal(model(2.0), expected)
    assert (facts["compiled"], compiler.orders) == ({"block_calls": 1, "by_graph": 0}, 0)
    for scale in range(MOST_GRAPHS + 2):
        with compiler.counting(eager=False) as facts:
            model(float(scale))
        compiler.wait()
        with compiler.counting(eager=False) as facts:
            assert torch.equal(model(2.0), expected)
        assert facts["compiled"]["by_graph"] == 0
    assert compiler.orders == MOST_GRAPHS


def test_graphs_are_kept_in_the_cache_directory_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    keep_graphs(tmp_path)
    keep_graphs(tmp_path / "other")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")
