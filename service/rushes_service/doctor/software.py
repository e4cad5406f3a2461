"""Python, packages, ffmpeg and the GPU."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

from rushes_service.doctor.report import Finding, fail, gib, ok, warn
from rushes_service.processes import gpus

OLDEST_PYTHON = (3, 10)

OLDEST = {
    "torch": (2, 6),
    "diffusers": (0, 36),
    "transformers": (4, 57),
    "redis": (5, 3),
    "pydantic": (2, 8),
    "safetensors": (0, 4),
    "imageio-ffmpeg": (0, 5),
    "fastapi": (0, 115),
}
"""The lower bounds of `pyproject.toml`; a test keeps the two equal."""

OF_SAMPLING = ("torch", "diffusers", "transformers", "safetensors")
"""What the API does without."""

INSTALL = "pip install --upgrade 'rushes[service]'"

BROKEN_CONV3D = ((2, 8), (2, 9))
"""Versions of PyTorch whose 3D convolutions depend on cuDNN: with one before `WHOLE_CUDNN` large ones in half precision
and TF32 are wrong (pytorch#163539, #167024), or take several times the memory (pytorch#166643)."""

WHOLE_CUDNN = 91500
"""cuDNN 9.15.0, as PyTorch counts it."""

FFMPEG_TIMEOUT_S = 30.0


def check_python() -> Finding:
    """The interpreter's version."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        return fail("Python", found, f"Rushes needs Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    return ok("Python", found)


def installed(name: str) -> str | None:
    """Version of a package, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def api_alone() -> bool:
    """True for an installation of the extra `api` alone, as in the API's image: it makes no samples by design."""
    return installed("fastapi") is not None and not any(installed(name) for name in OF_SAMPLING[:3])


def check_packages() -> Iterator[Finding]:
    """Installed versions, read from their metadata: nothing heavy is imported."""
    alone = api_alone()
    if alone:
        yield ok("service", f"not installed, the API alone is; to make samples here: {INSTALL}")
    for name, oldest in OLDEST.items():
        needed = ".".join(map(str, oldest))
        version = installed(name)
        if version is None and alone and name in OF_SAMPLING:
            continue
        if version is None:
            yield fail(name, "not installed", INSTALL)
        elif release(version) < oldest:
            yield fail(name, f"{version}, older than {needed}", INSTALL)
        else:
            yield ok(name, version)


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2.13.0+cpu` is (2, 13, 0)."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in leading.group().split(".")) if leading else ()


def check_gpus() -> Iterator[Finding]:
    """The GPUs that PyTorch sees, a failure if the driver sees more; and whether its VAEs can be trusted there."""
    report = gpus.ask()
    if report.error:
        yield fail("GPU", report.error, f"repair the installation of PyTorch: {INSTALL}")
        return
    yield from check_convolutions(report)
    driver = driver_version()
    for gpu in report.gpus:
        memory = f"{gib(gpu.memory_bytes)}, {gib(gpu.free_bytes)} free"
        yield ok(gpu.device, f"{gpu.name}, {memory}, CUDA {report.cuda}, driver {driver or 'unknown'}")
    if report.gpus:
        return
    if driver and report.cuda is None:
        yield fail(
            "GPU",
            f"PyTorch {report.torch} is a CPU build, but driver {driver} is here",
            "install a CUDA build of torch",
        )
    elif driver:
        advice = "update the driver, or look at CUDA_VISIBLE_DEVICES and, in a container, at its GPU reservation"
        yield fail("GPU", f"driver {driver} is here, but PyTorch (CUDA {report.cuda}) sees no GPU", advice)
    else:
        yield warn("GPU", "none", "the CPU works, but is far too slow for full-size models")


def check_convolutions(report: gpus.GpuReport) -> Iterator[Finding]:
    """A warning where 3D convolutions, of which the VAEs of all video families are made, are broken on GPUs."""
    if report.torch is None or report.cuda is None or report.cudnn is None:
        return
    if release(report.torch)[:2] not in BROKEN_CONV3D or report.cudnn >= WHOLE_CUDNN:
        return
    version = f"{report.cudnn // 10000}.{report.cudnn // 100 % 100}.{report.cudnn % 100}"
    found = f"PyTorch {report.torch} with cuDNN {version} decodes some videos wrongly, or in several times the memory"
    package = f"nvidia-cudnn-cu{report.cuda.partition('.')[0]}"
    yield warn("3D convolutions", found, f"pip install 'torch>=2.10', or pip install '{package}>=9.15'")


def driver_version() -> str | None:
    """NVIDIA driver version, or None without a driver."""
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=FFMPEG_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split("\n", 1)[0].strip() or None if done.returncode == 0 else None


def check_ffmpeg() -> Finding:
    """The ffmpeg that writes the mp4 files runs and knows H.264."""
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        command = [program, "-hide_banner", "-encoders"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FFMPEG_TIMEOUT_S, check=True)
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return fail("ffmpeg", f"does not run: {error}", "pip install --force-reinstall imageio-ffmpeg")
    if "libx264" not in done.stdout:
        advice = "unset IMAGEIO_FFMPEG_EXE to use the bundled one, or name an ffmpeg that has libx264"
        return fail("ffmpeg", f"{program} has no libx264 encoder", advice)
    return ok("ffmpeg", f"{imageio_ffmpeg.get_ffmpeg_version()} with libx264")
