"""What the doctor says of model files, from their headers alone."""

from __future__ import annotations

import subprocess
import sys

from golden_support import GOLDEN, SHARED, Case
from rushes_service.doctor.fit import check_files
from rushes_service.doctor.report import Mark

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
