"""A training on Windows, as small as can be: output directory, Redis URL, what to do."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from rushes import Cadence, ModelSpec, Run, TrainingSampler
from rushes._paths import SPOOL_DIR
from rushes.training.handoffs import HandoffJournal

directory, url, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
steps = [int(step) for step in sys.argv[4:]]

WAIT_S = 120.0


def save(step: int) -> Path:
    """A complete LoRA file, other at every step."""
    path = directory / f"lora-{step:06d}.safetensors"
    header = json.dumps({"__metadata__": {"step": str(step)}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


def sampler() -> TrainingSampler:
    (directory / "prompts.txt").write_text("a red ball --d 1\ntwo cats --d 2\n")
    model = ModelSpec(architecture="wan2.1-t2v", model=str(directory / "model"))
    run = Run(name="run", model=model, output_dir=str(directory), output_name="lora")
    return TrainingSampler(run, directory / "prompts.txt", Cadence(every_n_steps=10), url=url)


if what == "die":  # between securing the weights and the spool
    pending = directory / ".rushes" / "checkpoints" / "1-1-0.pending.safetensors"
    pending.parent.mkdir(parents=True, exist_ok=True)
    save(steps[0]).replace(pending)
    assert HandoffJournal(directory / SPOOL_DIR, "run").write(steps[0], None, pending, None)
    print("noted", flush=True)
    os._exit(9)

training = sampler()
for step in steps:
    checkpoint = save(step)
    began = time.perf_counter()
    training.submit(step=step, weights=checkpoint)
    print(f"submit took {(time.perf_counter() - began) * 1e3:.1f} ms", flush=True)
    if what != "keep":
        checkpoint.unlink()  # as rotation does, at once
if what == "hang":
    while not list((directory / SPOOL_DIR).glob("*.json")):
        time.sleep(0.05)
    print("spooled", flush=True)
    time.sleep(600)
results = training.close(wait=what == "wait", timeout=WAIT_S)
for result in sorted(results, key=lambda result: (result.step, result.prompt_index)):
    print(
        result.step, result.state.value, result.path, bool(result.path) and Path(str(result.path)).is_file(), flush=True
    )
print("left", sorted(path.name for path in (directory / ".rushes").rglob("*") if path.is_file()), flush=True)
