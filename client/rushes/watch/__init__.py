"""The directory watcher, for every trainer, unmodified: finds new checkpoints and hands their samples over.

Other rooms import the names below, `names`, `experts` and `notifier`. The modules, in the order of a checkpoint's way:

    names.py      file name and metadata -> run, step, epoch
    finding.py    a directory -> the checkpoints in it
    journal.py    which of them are known already, on disk
    experts.py    which of them are for a transformer that samples
    pairs.py      files of both transformers of one step -> one
    waiting.py    which of them are complete, and done with
    notifier.py   waits until something may have changed
    delivery.py   what is spooled -> Redis
    watcher.py    new and complete -> held, spooled, handed over
"""

from rushes.watch.finding import Found, Search, find
from rushes.watch.watcher import CheckpointWatcher

__all__ = ["CheckpointWatcher", "Found", "Search", "find"]
