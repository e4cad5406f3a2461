"""What Windows does otherwise: files in use, processes, and the service that does not run there."""

from __future__ import annotations

import os
import sys
from typing import IO

WINDOWS = sys.platform == "win32"

NO_SERVICE = (
    "the sampling service (workers, API, bundled Redis) does not run on Windows: run it in WSL2, with Docker Compose "
    "or on a Linux machine, and give this machine its address with --redis-url or RUSHES_REDIS_URL"
)

if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

    GENERIC_READ = 0x80000000
    SHARE_ALL = 0x1 | 0x2 | 0x4
    """Others may read, write, and delete or rename the file while it is open."""

    OPEN_EXISTING = 3
    SYNCHRONIZE = 0x00100000
    QUERY_LIMITED_INFORMATION = 0x1000
    WAIT_TIMEOUT = 0x102
    ACCESS_DENIED = 5
    INVALID_HANDLE = wintypes.HANDLE(-1).value

    _kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel.CreateFileW.restype = wintypes.HANDLE
    _kernel.CreateFileW.argtypes = [
        wintypes.LPCWSTR,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.LPVOID,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.HANDLE,
    ]
    _kernel.OpenProcess.restype = wintypes.HANDLE
    _kernel.OpenProcess.argtypes = [wintypes.DWORD, wintypes.BOOL, wintypes.DWORD]
    _kernel.WaitForSingleObject.argtypes = [wintypes.HANDLE, wintypes.DWORD]
    _kernel.CloseHandle.argtypes = [wintypes.HANDLE]

    def open_shared(path: str | os.PathLike[str], _flags: int = 0) -> int:
        """A descriptor to read a file, which its owner may delete, rename or write to meanwhile.

        Also an `opener` for `open`.

        Raises:
            OSError: as `os.open`.
        """
        name = os.fspath(path)
        handle = _kernel.CreateFileW(name, GENERIC_READ, SHARE_ALL, None, OPEN_EXISTING, 0, None)
        if handle == INVALID_HANDLE:
            code = ctypes.get_last_error()
            raise OSError(None, ctypes.FormatError(code), name, code)
        return msvcrt.open_osfhandle(handle, os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT)

    def lock(file: IO[bytes]) -> None:
        """Lock an open file until it is closed.

        Raises:
            OSError: another process has locked it.
        """
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def process_is_dead(pid: int) -> bool:
        """True when this machine has no such process."""
        handle = _kernel.OpenProcess(SYNCHRONIZE | QUERY_LIMITED_INFORMATION, False, pid)
        if not handle:
            return ctypes.get_last_error() != ACCESS_DENIED
        try:
            return _kernel.WaitForSingleObject(handle, 0) != WAIT_TIMEOUT
        finally:
            _kernel.CloseHandle(handle)

else:
    import fcntl

    def open_shared(path: str | os.PathLike[str], _flags: int = 0) -> int:
        """A descriptor to read a file, which its owner may delete, rename or write to meanwhile.

        Does not block: a pipe in the place of a checkpoint must not stop the training loop. Also an `opener` for
        `open`.

        Raises:
            OSError: as `os.open`.
        """
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def lock(file: IO[bytes]) -> None:
        """Lock an open file until it is closed.

        Raises:
            OSError: another process has locked it.
        """
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def process_is_dead(pid: int) -> bool:
        """True when this machine has no such process."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # the process of another user
            pass
        return False
