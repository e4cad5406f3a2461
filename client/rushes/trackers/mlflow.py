"""MLflow: pictures as time-stepped images, clips as artifacts in a directory per step."""

from __future__ import annotations

from typing import Any

from rushes.trackers.base import VIDEO, key_of, media_of, needed, numbers_of
from rushes.wire.results import SampleResult

RUN_TAG = "rushes.run"
"""Marks the MLflow run that holds the samples of a training run."""


class MlflowTracker:
    """Logs results into an MLflow run.

    Args:
        run_id: of the trainer's own run, or of one that is made for samples alone, see `start`.
        uri: of the tracking server; else MLflow's own choice.
    """

    def __init__(self, run_id: str, uri: str | None = None) -> None:
        self._mlflow: Any = needed("mlflow", "mlflow")
        self.client: Any = self._mlflow.MlflowClient(tracking_uri=uri)
        self.run_id = run_id

    @classmethod
    def start(cls, uri: str, name: str, experiment: str = "rushes") -> MlflowTracker:
        """The MLflow run for the samples of the training run `name`, made if there is none.

        Raises:
            ConfigError: mlflow is not installed.
        """
        client = needed("mlflow", "mlflow").MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(experiment)
        experiment_id = known.experiment_id if known else client.create_experiment(experiment)
        runs = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{name}'")
        run = runs[0] if runs else client.create_run(experiment_id, run_name=name, tags={RUN_TAG: name})
        return cls(run.info.run_id, uri)

    def log(self, result: SampleResult) -> None:
        """Show a result at its step."""
        path = media_of(result)
        if path is None:
            return
        key = key_of(result)
        if result.media_type == VIDEO:
            self.client.log_artifact(self.run_id, str(path), f"{key}/step_{result.step:08d}")
        else:
            self.client.log_image(self.run_id, self._mlflow.Image(str(path)), key=key, step=result.step)
        for name, value in numbers_of(result).items():
            self.client.log_metric(self.run_id, name, value, step=result.step)

    def close(self) -> None:
        """Nothing is held back; the run stays open for more."""
