"""What the doctor says of model files, from their headers alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import diffusers
import psutil
import pytest

from golden_support import GOLDEN, SHARED, Case
from rushes_service.doctor.fit import check_files, part_of
from rushes_service.doctor.host_memory import check_host_memory, machine_memory
from rushes_service.doctor.report import Mark
from rushes_service.engine.offload import blocks_of
from rushes_service.models.loading.files.headers import read_header

WAN = {
    "dit": str(Case("wan_t2v").directory / "dit.safetensors"),
    "vae": str(SHARED / "wan_vae.safetensors"),
    "t5": str(GOLDEN / "original_encoders" / "umt5.pth"),
}


def test_every_file_is_described_and_the_memory_estimated():
    found = {finding.name: finding for finding in check_files("wan2.1-t2v", WAN, None)}
    assert all(finding.mark is Mark.OK for finding in found.values())
    assert found["--dit"].found.startswith("a Wan transformer (text to video)")
    assert found["--t5"].found.startswith("the text encoder UMT5")
    assert "--fp8_base" in found["memory to denoise"].found
    assert "text_encoder" in found["memory to encode"].found
    assert "--offload" in found["host memory"].found


@pytest.mark.parametrize(
    "name", ["wan_t2v", "hunyuan_t2v", "hv15_t2v", "flux_kontext", "flux2_dev", "qwen_image", "zimage"]
)
def test_the_weights_in_blocks_are_those_that_offloading_keeps_in_host_memory(name: str, tmp_path: Path):
    case = Case(name)
    model = getattr(diffusers, case.facts["diffusers"]["transformer"]["cls"])(**case.arguments("transformer"))
    hosted = sum(weight.numel() for block in blocks_of(model) for weight in block.parameters())
    model.save_pretrained(tmp_path)
    files = [*tmp_path.glob("*.safetensors"), *case.directory.glob("dit.safetensors")]  # other names for the same
    assert {part_of("transformer", [read_header(file)]).in_blocks for file in files} == {hosted}


GIB = 2**30
WAN_14B = 14_055_772_160
"""Numbers of the 40 blocks of Wan2.1 14B."""


def test_the_host_memory_of_a_14b_is_that_of_its_pinned_copies():
    finding = check_host_memory(WAN_14B, experts=False, machine=64 * GIB)
    assert finding.mark is Mark.OK
    for need in ("29.2 GiB as trained", "3.0 GiB --fp8_base", "55.4 GiB --offload", "this machine has 64.0 GiB"):
        assert need in finding.found
    assert "both experts" in check_host_memory(WAN_14B, experts=True, machine=64 * GIB).found


@pytest.mark.parametrize(
    ("machine", "lacking", "advice"),
    [
        (48 * GIB, "too little for: --offload", "sample as trained (bfloat16) or --fp8_base, or give the worker more"),
        (24 * GIB, "too little for: as trained (bfloat16), --offload", "sample --fp8_base, or give the worker more"),
        (2 * GIB, "too little for: as trained (bfloat16), --fp8_base, --offload", "give the worker more memory"),
    ],
)
def test_a_machine_with_too_little_memory_is_a_warning(machine: int, lacking: str, advice: str):
    finding = check_host_memory(WAN_14B, experts=False, machine=machine)
    assert finding.mark is Mark.WARN
    assert finding.found.endswith(lacking)
    assert finding.advice is not None
    assert finding.advice.startswith(advice)


def test_a_container_has_what_its_limit_allows(tmp_path: Path):
    limited, unlimited = tmp_path / "memory.max", tmp_path / "unlimited"
    limited.write_text("1073741824\n")
    unlimited.write_text("max\n")
    everything = psutil.virtual_memory().total
    assert machine_memory([limited]) == GIB
    assert machine_memory([unlimited, tmp_path / "absent"]) == everything


def test_a_wrong_file_and_a_useless_one_are_told():
    given = {"dit": WAN["vae"], "clip": WAN["t5"]}
    found = {finding.name: finding for finding in check_files("wan2.1-t2v", given, None)}
    assert found["--dit"].mark is Mark.FAIL
    assert "this is Wan's VAE" in found["--dit"].found
    assert found["--clip"].mark is Mark.WARN


def test_nothing_heavy_is_imported():
    program = (
        "import sys; from rushes_service.doctor.fit import check_files; "
        f"list(check_files('wan2.1-t2v', {WAN!r}, None)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
