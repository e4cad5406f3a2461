"""The GPUs that PyTorch sees, probed in a process of its own.

So the asking process stays light, holds no GPU memory, and survives an installation of PyTorch that crashes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

TIMEOUT_S = 120.0
"""A cold import of PyTorch from a network disk can take most of a minute."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. `memory_bytes` is its memory, `free_bytes` the unused part."""

    device: str
    name: str
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class GpuReport:
    """PyTorch's view. `error` is set if the probe failed; `cuda` is the CUDA (or HIP) version of the build, if any.

    `cudnn` is cuDNN's version as PyTorch counts it: 91002 is 9.10.2. None without CUDA.
    """

    torch: str | None = None
    cuda: str | None = None
    cudnn: int | None = None
    gpus: tuple[Gpu, ...] = ()
    error: str | None = None


def ask() -> GpuReport:
    """Import PyTorch in another process and report its GPUs. Never raises."""
    command = [sys.executable, "-m", "rushes_service.processes.gpus"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return GpuReport(error=f"importing torch took more than {TIMEOUT_S:g} s")
    if done.returncode != 0:
        last = done.stderr.strip().rsplit("\n", 1)[-1]
        return GpuReport(error=f"importing torch failed (exit code {done.returncode}): {last}")
    answer = json.loads(done.stdout.rsplit("\n", 2)[-2])
    return GpuReport(**{**answer, "gpus": tuple(Gpu(**gpu) for gpu in answer["gpus"])})


def main() -> None:
    """Print the report as one line of JSON."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        gpus.append(asdict(Gpu(f"cuda:{index}", properties.name, total, free)))
    cudnn = torch.backends.cudnn.version() if torch.version.cuda else None  # of HIP it is MIOpen's
    cuda = torch.version.cuda or torch.version.hip
    report = {"torch": torch.__version__, "cuda": cuda, "cudnn": cudnn, "gpus": gpus}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
