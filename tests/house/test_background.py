"""The tests themselves, started in the background of a shell."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

HANDLER = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"


def test_programs_that_tests_start_heed_ctrl_c() -> None:
    printed = subprocess.run([sys.executable, "-c", HANDLER], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "True"


def test_they_do_so_in_the_background_of_a_shell_too(pytestconfig: pytest.Config) -> None:
    test = f"{__file__}::{test_programs_that_tests_start_heed_ctrl_c.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", test]
    done = subprocess.run(
        command,
        cwd=pytestconfig.rootpath,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a shell does for `&`
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
