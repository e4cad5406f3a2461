"""Programs under Windows' own Python in Wine; see `tests/windows/setup.sh`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

ROOT = Path(__file__).parents[1]
WINE = Path("/usr/lib/wine/wine64")
VARIABLE = "RUSHES_WINDOWS"
RUN_S = 240.0
"""A program's time; starting Python takes Wine some seconds on a busy machine."""


@dataclass(frozen=True)
class Windows:
    """A directory that `setup.sh` has filled."""

    place: Path

    @property
    def drive(self) -> Path:
        """Where drive C: is."""
        return self.place / "prefix" / "drive_c"

    def directory(self) -> tuple[Path, str]:
        """A new directory on drive C:, as it is called here and there."""
        self.drive.mkdir(parents=True, exist_ok=True)
        here = Path(tempfile.mkdtemp(prefix="train-", dir=self.drive))
        return here, f"C:\\{here.name}"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `python ARGUMENTS`. Standard input and output must be pipes: Python takes no others here."""
        paths = [self.place / "site", ROOT / "client", ROOT / "service"]
        environment = {
            **os.environ,
            "WINEDEBUG": "-all",
            "WINEARCH": "win64",
            "WINEPREFIX": str(self.place / "prefix"),
            "PYTHONPATH": ";".join(str(there(path)) for path in paths),
            "PYTHONPYCACHEPREFIX": str(there(self.place / "pycache")),  # compiling takes longer than all else
        }
        return subprocess.Popen(
            [str(WINE), str(self.place / "python" / "python.exe"), "-u", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    def run(self, *arguments: str, fails: int = 0) -> str:
        """What `python ARGUMENTS` prints; the test fails unless it ends with `fails`."""
        process = self.start(*arguments)
        try:
            printed, _ = process.communicate(timeout=RUN_S)
        finally:
            process.kill()
        assert process.returncode == fails, printed
        return printed.replace("\r\n", "\n")

    def end(self) -> None:
        """End what Wine itself has started."""
        wineserver = shutil.which("wineserver64", path="/usr/lib/wine") or shutil.which("wineserver")
        if wineserver:
            subprocess.run(
                [wineserver, "-k"], env={**os.environ, "WINEPREFIX": str(self.place / "prefix")}, check=False
            )


def there(path: Path) -> PureWindowsPath:
    """A path of this machine as a program under Wine names it."""
    return PureWindowsPath(f"Z:{path}")
