"""When a run is sampled: the rules of musubi-tuner's `should_sample_images`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rushes import Cadence
from rushes.errors import ConfigError

interval = st.none() | st.integers(1, 7)


def reference(steps_every: int | None, epochs_every: int | None, at_first: bool, step: int, epoch: int | None) -> bool:
    """The published rule, in other words."""
    if step == 0:
        return at_first
    hits = [
        every is not None and count is not None and count % every == 0
        for every, count in ((steps_every, step), (epochs_every, epoch))
    ]
    return any(hits)


@given(interval, interval, st.booleans(), st.integers(0, 60), st.none() | st.integers(0, 20))
def test_it_is_the_reference_trainers_rule(
    steps: int | None, epochs: int | None, at_first: bool, step: int, epoch: int | None
) -> None:
    due = Cadence(steps, epochs, at_first).due(step=step, epoch=epoch)
    assert due == reference(steps, epochs, at_first, step, epoch)


def test_steps_and_epochs_both_trigger() -> None:
    cadence = Cadence(every_n_steps=10, every_n_epochs=2)
    assert cadence.due(step=10)
    assert cadence.due(step=13, epoch=2)
    assert not cadence.due(step=13, epoch=1)
    assert not cadence.due(step=13)


def test_step_zero_is_sampled_only_when_asked_for() -> None:
    assert not Cadence(every_n_steps=10, every_n_epochs=1).due(step=0, epoch=0)
    assert Cadence(at_first=True).due(step=0)


def test_zero_means_never() -> None:
    assert not Cadence(every_n_steps=0, every_n_epochs=0).due(step=10, epoch=10)


@pytest.mark.parametrize(
    ("flag", "values"), [("--sample_every_n_steps", (-1, None)), ("--sample_every_n_epochs", (1, -2))]
)
def test_a_negative_interval_names_its_flag(flag: str, values: tuple[int | None, int | None]) -> None:
    with pytest.raises(ConfigError, match=flag):
        Cadence(*values)
