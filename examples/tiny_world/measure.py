"""Samples held-out prompts with Rushes' own engine and counts what comes out right.

python examples/tiny_world/measure.py --model service/rushes_service/demo/tiny_world
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from words import scenes

from rushes import ModelSpec, Prompt
from rushes.wire.jobs import SampleJob
from rushes_service.demo.checker import Reading, read_clip
from rushes_service.demo.world import FRAMES, SIZE, Scene
from rushes_service.engine.engine import Engine

FEATURES = ("colour", "shape", "motion", "ground")


def main() -> None:
    """Print how often each feature, and all of them, are as the prompt says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    held_out = scenes()[1][: args.count]
    with tempfile.TemporaryDirectory() as cache:
        engine = Engine("cpu", Path(cache))
        for frames in (FRAMES, 1):
            started = time.process_time()
            read = [sample(engine, args.model, scene, frames, args.steps, seed) for seed, scene in enumerate(held_out)]
            seconds = (time.process_time() - started) / len(held_out)
            print(f"{frames} frames, {len(held_out)} held-out prompts, {seconds:.2f} CPU seconds each:")
            print("   ", score(held_out, read, FEATURES if frames > 1 else ("colour", "shape", "ground")))


def sample(engine: Engine, model: Path, scene: Scene, frames: int, steps: int, seed: int) -> Reading:
    """Make one sample and read it."""
    moving = {"stays": "stays"}.get(scene.motion, f"moves {scene.motion}")
    text = f"a {scene.colour} {scene.shape} {moving} on {scene.ground}"
    prompt = Prompt(
        prompt=text,
        width=SIZE,
        height=SIZE,
        frame_count=frames,
        sample_steps=steps,
        seed=seed,
        discrete_flow_shift=3.0,
        cfg_scale=4.0,
    )
    spec = ModelSpec(architecture="wan2.1-t2v", model=str(model))
    job = SampleJob(
        id=f"{seed}-{frames}", run="measure", submission="measure", model=spec, prompt=prompt, output_dir="."
    )
    return read_clip(np.stack(list(engine.denoise(job, Indifferent()).frames())))


def score(asked: list[Scene], read: list[Reading], features: tuple[str, ...]) -> str:
    """Share of readings in which each feature is right, and in which all are."""
    right: Counter[str] = Counter()
    for scene, reading in zip(asked, read, strict=True):
        same = {name: getattr(scene, name) == getattr(reading.scene, name) for name in features}
        right.update(name for name, is_right in same.items() if is_right)
        right["all"] += all(same.values())
    return ", ".join(f"{name} {right[name] / len(asked):.0%}" for name in (*features, "all"))


class Indifferent:
    """A watch that lets every step pass."""

    def stage(self, name: str, total: int = 0) -> None:
        """A stage begins."""

    def step(self, done: int, total: int) -> None:
        """A step is done."""


if __name__ == "__main__":
    main()
