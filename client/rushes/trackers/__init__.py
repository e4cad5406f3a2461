"""Results in the trackers that people already watch, each at the step that it belongs to.

    tracker = TensorBoardTracker("logs/run/samples")
    for result in sampler.results():
        tracker.log(result)

Samples arrive minutes after their step, and not in order. No tracker here moves the trainer's own step counter, and
none loses a sample because a later one came first.
"""

from rushes.trackers.base import Tracker, key_of
from rushes.trackers.mlflow import MlflowTracker
from rushes.trackers.tensorboard import TensorBoardTracker
from rushes.trackers.trackio import TrackioTracker
from rushes.trackers.wandb import WandbTracker

__all__ = ["MlflowTracker", "TensorBoardTracker", "Tracker", "TrackioTracker", "WandbTracker", "key_of"]
