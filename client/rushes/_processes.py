"""Whether a process of this machine is alive."""

from __future__ import annotations

import os


def process_is_dead(pid: int) -> bool:
    """True when this machine has no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # the process of another user
        pass
    return False
