"""Memory of HunyuanVideo's decoder: chunks take less of it and give the same pixels."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ctypes, os, sys
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
latents = torch.randn(1, 16, 3, 16, 64)

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

def decoded(chunk_size):
    options = VaeOptions(chunk_size=chunk_size) if chunk_size else VaeOptions()
    decode_hunyuan(vae, latents[:, :, :1, :4, :4], options)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    pixels = decode_hunyuan(vae, latents, options)
    print(memory("VmHWM") - before, hash(pixels.numpy().tobytes()), flush=True)

for chunk_size in sys.argv[1:]:
    child = os.fork()  # with a heap that nothing has been decoded in
    if not child:
        decoded(int(chunk_size))
        os._exit(0)
    os.waitpid(child, 0)
"""


def decoded(*chunk_sizes: int) -> list[tuple[int, int]]:
    """Peak memory of decodes in kB above the loaded VAE, and a hash of their pixels. 0 is the decode as a whole."""
    command = [sys.executable, "-c", PROGRAM, *map(str, chunk_sizes)]
    environment = {"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [(int(peak), int(pixels)) for peak, pixels in map(str.split, done.stdout.splitlines())]


def test_chunks_lower_the_peak_and_change_no_pixel() -> None:
    whole, chunked = decoded(0, 32)
    assert chunked[1] == whole[1]
    assert chunked[0] < 0.9 * whole[0]
