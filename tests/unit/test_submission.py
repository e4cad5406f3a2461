"""From a checkpoint and prompts to jobs, and what is refused on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rushes import ModelSpec, Prompt, Run, build_jobs, read_prompts
from rushes.errors import ArchitectureError, CheckpointMissing, ConfigError, PromptError
from rushes.prompts.files import PromptLine
from rushes.submission.build import build_from_lines, check_prompts, checkpoint_at, run_name
from rushes.submission.submission_builder import LOST, SubmissionBuilder
from rushes.wire.jobs import DRAFT_THRESHOLD, Checkpoint

RUN = Run(name="run", model=ModelSpec(architecture="wan2.1-t2v", model="/m"), output_dir="/o", output_name="lora")
CHECKPOINT = Checkpoint(path="/c", fingerprint="f" * 64)


def lines(directory: Path, text: str) -> list[PromptLine]:
    path = directory / "prompts.txt"
    path.write_text(text)
    return read_prompts(path)


def test_a_random_seed_is_drawn_and_the_id_does_not_depend_on_it() -> None:
    first, second = (build_jobs(RUN, [Prompt(prompt="a cat")])[0] for _ in range(2))
    assert first.prompt.seed is not None
    assert first.prompt.seed != second.prompt.seed
    assert first.id == second.id


def test_jobs_of_one_checkpoint_are_one_submission() -> None:
    prompts = [Prompt(prompt="a"), Prompt(prompt="b")]
    jobs = build_jobs(RUN, prompts, checkpoint=CHECKPOINT, step=10, epoch=1, submitted_at=5.0)
    assert len({job.id for job in jobs}) == 2
    assert len({job.submission for job in jobs}) == 1
    assert [(job.prompt_index, job.step, job.epoch, job.submitted_at) for job in jobs] == [
        (0, 10, 1, 5.0),
        (1, 10, 1, 5.0),
    ]
    assert jobs[0].submission != build_jobs(RUN, prompts, step=10)[0].submission


def test_a_bad_line_is_refused_with_its_place_and_the_others_are_jobs(tmp_path: Path) -> None:
    found = lines(tmp_path, "good\nbad --nope 1\nsmall --w 8\n")
    jobs, refused = build_from_lines(RUN, found, checkpoint=CHECKPOINT, step=1, epoch=None)
    assert [job.prompt.prompt for job in jobs] == ["good"]
    assert [item.job.prompt_index for item in refused] == [1, 2]
    assert refused[0].error.message.startswith(f"{tmp_path}/prompts.txt:2:5: unknown option --nope")
    assert refused[1].error.message.startswith(f"{tmp_path}/prompts.txt:3: --w 8 is too small")


def test_checking_a_file_names_the_first_line_that_cannot_be_sampled(tmp_path: Path) -> None:
    assert check_prompts(RUN, lines(tmp_path, "a\nb --w 64")) == [Prompt(prompt="a"), Prompt(prompt="b", width=64)]
    with pytest.raises(PromptError, match=r"prompts\.txt:2: --w 8 is too small"):
        check_prompts(RUN, lines(tmp_path, "a\nb --w 8"))
    i2v = Run(name="run", model=ModelSpec(architecture="wan2.1-i2v"), output_dir="/o")
    with pytest.raises(ArchitectureError):
        check_prompts(i2v, lines(tmp_path, "a\nb"))


def test_runs_that_write_to_different_places_have_different_names() -> None:
    assert run_name("/a/out", "lora") != run_name("/b/out", "lora")
    assert run_name("/a/out", None).startswith("out-")
    assert run_name("/a/out", "lora") == run_name(Path("/a/out"), "lora")


def test_a_checkpoint_that_stays_is_named_by_content_and_not_removed(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"x")
    found = checkpoint_at(tmp_path / "c")
    assert not found.snapshot
    assert len(found.fingerprint) == 64
    with pytest.raises(CheckpointMissing):
        checkpoint_at(tmp_path / "absent")


def test_lost_weights_make_a_failed_sample_of_every_prompt_and_never_one_of_the_base_model(tmp_path: Path) -> None:
    builder = SubmissionBuilder(RUN, lambda: lines(tmp_path, "a\nb --nope 1\n"))
    submission = builder.build(10, None, ZeroDivisionError("of the trainer's"))
    assert submission.jobs == []
    assert [item.error.code for item in submission.refused] == ["prompt", "checkpoint"]
    assert 'ZeroDivisionError("of the trainer\'s")' in submission.refused[1].error.message
    base = builder.build(10, None, None)
    assert {job.id for job in base.all}.isdisjoint(job.id for job in submission.all)
    assert all(item.job.checkpoint and item.job.checkpoint.fingerprint == LOST for item in submission.refused)


def test_a_prompt_file_that_breaks_in_training_leaves_the_prompts_read_before(tmp_path: Path) -> None:
    builder = SubmissionBuilder(RUN, lambda: lines(tmp_path, "a\nb\n"))
    builder.build(10, None, None)
    builder.prompts = lambda: read_prompts(tmp_path / "absent.txt")
    submission = builder.build(20, None, None)
    assert [job.prompt.prompt for job in submission.jobs] == ["a", "b"]
    [refused] = submission.refused
    assert "absent.txt: there is no such prompt file" in refused.error.message
    assert (refused.job.prompt_index, refused.job.prompt.prompt) == (2, "(absent.txt cannot be read)")


def test_a_draft_is_another_sample_than_the_exact_one_which_stays_what_it_was() -> None:
    prompt = Prompt(prompt="a cat", seed=1)
    exact, usual, coarse = (build_jobs(replace(RUN, draft=draft), [prompt])[0] for draft in (None, True, 0.2))
    assert len({exact.id, usual.id, coarse.id}) == 3
    assert exact.id == build_jobs(RUN, [prompt])[0].id == build_jobs(replace(RUN, draft=False), [prompt])[0].id
    assert (exact.draft, usual.draft, coarse.draft) == (None, DRAFT_THRESHOLD, 0.2)
    assert "draft" not in json.loads(exact.encode())


@pytest.mark.parametrize("draft", [-0.1, float("nan"), float("inf")])
def test_a_threshold_that_is_none_is_refused(draft: float) -> None:
    with pytest.raises(ConfigError, match=r"must be a number of 0 or more; 0\.08 is usual"):
        replace(RUN, draft=draft)


def test_a_family_that_cannot_be_drafted_is_refused_at_once_with_those_that_can() -> None:
    model = ModelSpec(architecture="z-image", model="/m")
    with pytest.raises(ArchitectureError, match=r"z-image cannot be drafted: .*These can: .*hunyuan-video.*wan2.1-t2v"):
        replace(RUN, model=model, draft=True)
