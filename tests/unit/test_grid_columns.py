"""Columns of the grid that only a label tells apart."""

from __future__ import annotations

from rushes_service.catalogue.grid import column_of


def test_weights_of_one_step_have_columns_that_say_which_they_are() -> None:
    job = {"step": 100, "checkpoint": {"path": "/a/cat.safetensors", "fingerprint": "1" * 16}}
    averaged = {**job, "label": "ema", "checkpoint": {"path": "/a/cat-ema.safetensors", "fingerprint": "2" * 16}}

    assert [column_of(each).label for each in (job, averaged)] == ["", "ema"]
    assert column_of(job).key != column_of(averaged).key
