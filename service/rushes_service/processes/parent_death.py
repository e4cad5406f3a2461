"""Start a program that ends when the process that started it ends, however that ends.

`dying_with_parent(command)` is the command to run instead. On Linux this very file then runs as a small program in
the child: it asks the kernel for a SIGTERM at its parent's death and becomes the command. That is not done
in a `preexec_fn`, which may deadlock in a process that has threads.

The kernel watches the *thread* that started the child: start children from a thread that lives as long as they may.
Elsewhere than on Linux the command is run as it is, and a parent killed by SIGKILL leaves its children behind.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
"""From <sys/prctl.h>. The setting survives `exec`."""


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """`command`, tied to the life of the calling process."""
    if not sys.platform.startswith("linux"):
        return list(command)
    # -I and -S: no site-packages, no environment; the interpreter is up in some 15 ms.
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), *command]  # noqa: PTH100


def main(parent: int, command: list[str]) -> None:
    """Tie this process to `parent` and become `command`."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before we asked
        sys.exit("the starting process is gone")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
