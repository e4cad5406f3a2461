"""The directory watcher: for every trainer, unmodified.

The rooms, in the order of a checkpoint's way:

    names.py      file name and metadata -> run, step, epoch
    finding.py    a directory -> the checkpoints in it
    journal.py    which of them are known already, on disk
    waiting.py    which of them are complete, and done with
    alarm.py      waits until something may have changed
    watcher.py    new and complete -> held, spooled, handed over
"""

from rushes.watch.finding import Found, Search, find
from rushes.watch.watcher import CheckpointWatcher

__all__ = ["CheckpointWatcher", "Found", "Search", "find"]
