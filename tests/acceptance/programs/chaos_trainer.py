"""A trainer that submits checkpoints as fast as a small one saves them, and reports how long each submit took.

Arguments: output directory, prompt file, seconds, report file, name of the run.
"""

import json
import random
import sys
import time
from pathlib import Path

from safetensors.numpy import save_file

from rushes import Cadence, ModelSpec, Run, TrainingSampler

PAUSE_S = 0.4


def main(output: Path, prompts: Path, seconds: float, report: Path, name: str) -> None:
    import numpy as np

    rng = random.Random(name)
    run = Run(
        name=name, model=ModelSpec(architecture="wan2.1-t2v", model="/chaos"), output_dir=str(output), output_name=name
    )
    sampler = TrainingSampler(run, prompts, Cadence(every_n_steps=1))
    stalls, steps, end = [], 0, time.monotonic() + seconds
    while time.monotonic() < end:
        path = output / f"{name}-{steps:06d}.safetensors"
        save_file({"a": np.full((4, 4), steps, dtype=np.float32)}, path)
        for _ in range(rng.choice((1, 1, 2))):  # now and then the same checkpoint twice
            began = time.perf_counter()
            sampler.submit(step=steps, weights=path)
            stalls.append(time.perf_counter() - began)
        path.unlink()  # rotated away at once
        steps += 1
        time.sleep(PAUSE_S * rng.uniform(0.5, 1.5))
    sampler.close()
    report.write_text(json.dumps({"steps": steps, "stalls": stalls}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
