"""The sampling service: workers, API, gallery and all that they need. Runs on Linux and macOS."""

from rushes._platform import NO_SERVICE, WINDOWS

if WINDOWS:
    raise ImportError(NO_SERVICE)
