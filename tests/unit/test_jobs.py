"""The wire types: what is encoded reads back, what is not understood says so, and ids name content."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rushes.errors import InputError, WireError
from rushes.wire.ids import job_id
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob, VaeOptions
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobError, JobState, SampleResult

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
positive = st.integers(1, 4000)
floats = st.floats(0, 1e6, allow_nan=False)
prompts = st.builds(
    Prompt,
    prompt=words,
    width=st.none() | positive,
    seed=st.none() | st.integers(0, 2**63 - 1),
    cfg_scale=st.none() | floats,
    negative_prompt=st.none() | words,
    control_image_path=st.lists(words, max_size=3).map(tuple),
    lora_multiplier=st.none() | st.floats(-10, 10, allow_nan=False),
)
models = st.builds(ModelSpec, architecture=words, model=st.none() | words, vae=st.none() | words, fp8_t5=st.booleans())
jobs = st.builds(
    SampleJob,
    id=words,
    run=words,
    submission=words,
    model=models,
    vae=st.builds(VaeOptions, tiling=st.booleans(), chunk_size=st.none() | positive),
    checkpoint=st.none() | st.builds(Checkpoint, path=words, fingerprint=words, snapshot=st.booleans()),
    prompt=prompts,
    prompt_index=st.integers(0, 1000),
    step=st.integers(0, 10**9),
    epoch=st.none() | st.integers(0, 1000),
    output_dir=words,
    output_name=st.none() | words,
    priority=st.sampled_from(["interactive", "training"]),
    keep=st.sampled_from(["all", "latest"]),
    submitted_at=floats,
    local_time=st.none() | st.just("20260102030405"),
)
errors = st.builds(JobError, code=words, message=words, retryable=st.booleans())


@given(jobs)
def test_any_job_reads_back_as_itself(job: SampleJob) -> None:
    assert SampleJob.decode(job.encode()) == job


@given(jobs, st.sampled_from(JobState), st.none() | errors, st.lists(words, max_size=3), st.none() | floats)
def test_any_result_reads_back_as_itself(
    job: SampleJob, state: JobState, error: JobError | None, warnings: list[str], seconds: float | None
) -> None:
    result = SampleResult.of(job, state, error=error, warnings=tuple(warnings), seconds=seconds)
    assert SampleResult.decode(result.encode()) == result
    assert (result.id, result.step, result.prompt, result.seed) == (job.id, job.step, job.prompt, job.prompt.seed)


JOB = SampleJob(
    id="1", run="r", submission="s", model=ModelSpec(architecture="a"), prompt=Prompt(prompt="p"), output_dir="/o"
)


def changed(**changes: Any) -> str:
    return json.dumps({**json.loads(JOB.encode()), **changes})


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (changed(version=2), "version"),
        (changed(colour="red"), "colour"),
        (changed(prompt={"prompt": "p", "zoom": 2}), "prompt.zoom"),
        (changed(step=-1), "step"),
        (changed(prompt={"prompt": "p", "cfg_scale": "NaN"}), "prompt.cfg_scale"),
        ("{}", "id"),
        ("[]", "value"),
        ("not json", "value"),
        ("", "value"),
    ],
)
def test_a_job_of_another_kind_is_refused_and_kept_as_it_came(raw: str, told: str) -> None:
    with pytest.raises(WireError, match="not a sample job this version can read") as caught:
        SampleJob.decode(raw)
    assert caught.value.raw == raw
    assert told in str(caught.value)


def test_a_job_carries_its_version() -> None:
    """A version that is left out because it is the default would be read as the reader's own."""
    assert json.loads(JOB.encode())["version"] == 1


def test_a_text_that_is_no_unicode_is_refused_in_a_job_and_written_out_in_an_error() -> None:
    with pytest.raises(InputError, match="sample 1 holds a text that is not Unicode"):
        JOB.model_copy(update={"output_dir": "/\udcff"}).encode()
    error = JobError(code="output", message="/\udcff: no space")
    result = SampleResult.of(JOB, JobState.FAILED, error=error)
    assert SampleResult.decode(result.encode()).error == JobError(code="output", message=r"/\udcff: no space")


def test_a_result_with_unknown_fields_is_refused_and_kept_as_it_came() -> None:
    raw = json.dumps({**json.loads(SampleResult.of(JOB, JobState.DONE).encode()), "colour": "red"})
    with pytest.raises(WireError, match="colour") as caught:
        SampleResult.decode(raw)
    assert caught.value.raw == raw


ASKED: dict[str, Any] = {
    "run": "r",
    "model": ModelSpec(architecture="wan2.1-t2v", model="/m"),
    "checkpoint_fingerprint": "f" * 64,
    "prompt": Prompt(prompt="a cat", seed=1),
    "prompt_index": 0,
    "step": 100,
}


@pytest.mark.parametrize(
    "other",
    [
        {"run": "r2"},
        {"model": ModelSpec(architecture="wan2.1-t2v", model="/m2")},
        {"model": ModelSpec(architecture="wan2.1-t2v", model="/m", dtype="float16")},
        {"checkpoint_fingerprint": "e" * 64},
        {"prompt": Prompt(prompt="a dog", seed=1)},
        {"prompt": Prompt(prompt="a cat", seed=2)},
        {"prompt": Prompt(prompt="a cat")},
        {"prompt": Prompt(prompt="a cat", seed=1, lora_multiplier=0.5)},
        {"prompt": Prompt(prompt="a cat", seed=1, negative_prompt="")},
        {"prompt_index": 1},
        {"step": 101},
        {"vae": VaeOptions(tiling=True)},
        {"vae": VaeOptions(chunk_size=2)},
        {"draft": 0.08},
        {"draft": 0.0},
        {"output": ("/out", None)},
        {"output": ("/out", "lora")},
    ],
)
def test_an_id_changes_with_each_of_its_ingredients(other: dict[str, Any]) -> None:
    assert job_id(**{**ASKED, **other}) != job_id(**ASKED)


def test_an_id_is_the_same_wherever_and_whenever_it_is_made() -> None:
    assert job_id(**ASKED) == "e452c06d55c08672f1dfd75d2005b95f"
    spelled_out = Prompt(prompt="a cat", seed=1, width=None, control_image_path=())
    assert job_id(**{**ASKED, "prompt": spelled_out}) == job_id(**ASKED)
    assert job_id(**ASKED, vae=VaeOptions()) == job_id(**ASKED)


def test_equal_models_share_a_lane_and_others_do_not() -> None:
    model = ModelSpec(architecture="a", model="/m")
    assert model.fingerprint == ModelSpec(architecture="a", model="/m", fp8_t5=False).fingerprint
    assert model.fingerprint != ModelSpec(architecture="a", model="/m", fp8_t5=True).fingerprint


def test_only_states_that_nothing_follows_are_terminal() -> None:
    assert [state for state in JobState if not state.terminal] == [JobState.QUEUED, JobState.RUNNING]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(ValidationError, match="seed"):
        Prompt(prompt="a cat", seed=seed)
