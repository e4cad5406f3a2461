"""One sample on two GPUs, beside one; without a GPU by two processes on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from kit import CUDA, Kit, Row, Skipped, apart, fastest
from rushes_service.settings import Settings
from rushes_service.worker.devices import Together
from samples import make_engine, make_job, sample

WAN = "wan2.1-t2v"
ROUNDING = 1.5
"""How much further from float32 two devices may be than one is, on average."""


def two_devices(kit: Kit, way: str) -> Row:
    """The same picture as on one device, and the seconds of both. In a process of its own, which others end with."""
    if torch.cuda.device_count() == 1:
        raise Skipped("one GPU")
    command = [sys.executable, str(Path(__file__)), str(kit.home), way]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    if done.returncode:
        return {"ok": False, "error": done.stderr.strip()[-400:]}
    row = json.loads(done.stdout.strip().split("\n")[-1])
    return {"ok": row["two"]["mean"] <= ROUNDING * row["one"]["mean"], **row}


def main() -> None:
    """`together.py HOME WAY`: print how far the pictures in 16 bits are from that in float32, and their seconds."""
    kit, way = Kit(Path(sys.argv[1])), sys.argv[2]
    together = Together(("cuda:0", "cuda:1") if CUDA else ("cpu", "cpu"), way)
    asked = Settings(cache_dir=kit.home / f"together-{os.getpid()}", dtype="bfloat16")
    settings, _ = together.show_only_these(os.environ, asked, "cpu")
    exact, one, both = (make_engine(kit, settings.device, dtype) for dtype in ("float32", "bfloat16", "bfloat16"))
    leader = together.lead(both, settings, None)
    job = make_job(kit, WAN, width=256, height=256)
    wanted = sample(exact, job)[0]
    row = {}
    for name, engine in (("one", one), ("two", both)):
        row[name] = {**apart(sample(engine, job)[0], wanted), "seconds": fastest(lambda: sample(engine, job))}  # noqa: B023
    leader.end()
    print(json.dumps(row))


if __name__ == "__main__":
    main()
