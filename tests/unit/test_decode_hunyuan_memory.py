"""Memory of HunyuanVideo's decoder: chunks take less of it and give the same pixels."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ctypes, sys
from pathlib import Path
import torch
from diffusers import AutoencoderKLHunyuanVideo
from rushes.wire.jobs import VaeOptions
from rushes_service.models.hunyuan.decode import decode_hunyuan

ctypes.CDLL(None).mallopt(-3, 1 << 16)  # large blocks go back to the system when they are freed
torch.set_num_threads(1)
torch.manual_seed(0)
vae = AutoencoderKLHunyuanVideo(
    block_out_channels=(16, 16, 16, 16), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False
).eval()
latents = torch.randn(1, 16, 5, 16, 64)
options = VaeOptions(chunk_size=int(sys.argv[1])) if sys.argv[1] != "0" else VaeOptions()

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

decode_hunyuan(vae, latents[:, :, :1, :4, :4], options)
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
pixels = decode_hunyuan(vae, latents, options)
print(memory("VmHWM") - before, hash(pixels.numpy().tobytes()))
"""


def decoded(chunk_size: int) -> tuple[int, int]:
    """Peak memory of a decode in kB above the loaded VAE, and a hash of its pixels."""
    command = [sys.executable, "-c", PROGRAM, str(chunk_size)]
    environment = {"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    peak, pixels = done.stdout.split()
    return int(peak), int(pixels)


def test_chunks_lower_the_peak_and_change_no_pixel() -> None:
    whole, chunked = decoded(0), decoded(32)
    assert chunked[1] == whole[1]
    assert chunked[0] < 0.9 * whole[0]
