"""The estimate, the choice of pairs, and the files of votes."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from ranking_support import agreement, centred, simulated
from rushes_service.catalogue.entries import Entry
from rushes_service.catalogue.grid import Column
from rushes_service.ranking.contenders import Contender, field_of, spread
from rushes_service.ranking.estimate import PRIOR_SD, Outcome, estimate
from rushes_service.ranking.pairing import next_pair, pairs_needed
from rushes_service.ranking.table import as_csv, lines, outcomes_of, rank
from rushes_service.ranking.votes import FILE_NAME, Side, Vote, append, read_files


def contender(step: int, rows: int = 2, **changes: object) -> Contender:
    samples = {f"row{row}": f"{step}-{row}" for row in range(rows)}
    return Contender(key=f"{step}", run="cat", column=Column(key=f"{step}", step=step, base=step == 0), samples=samples)


def vote(left: int, right: int, choice: str = "left", voter: str = "ada", row: int = 0, number: int = 0) -> Vote:
    sides = [
        Side(sample=f"{step}-{row}", contender=f"{step}", title=f"step {step}", run="cat") for step in (left, right)
    ]
    return Vote(
        id=f"{number}{voter}{left}{right}{row}",
        at=number,
        voter=voter,
        row=f"row{row}",
        left=sides[0],
        right=sides[1],
        choice=choice,
    )


def test_two_contenders_have_the_strengths_that_maximise_the_posterior() -> None:
    found = estimate(2, [Outcome(0, 1, 1.0), Outcome(0, 1, 1.0), Outcome(1, 0, 1.0)])

    gap = found.strengths[0] - found.strengths[1]
    chance = 1 / (1 + math.exp(-gap))
    # Derivative of 2 log p + log (1 - p) - gap^2 / (4 sd^2), the prior of a difference having twice the variance.
    assert 2 - 3 * chance == pytest.approx(gap / (2 * PRIOR_SD**2), abs=1e-6)
    assert found.spread(0, 1) == pytest.approx(1 / (3 * chance * (1 - chance) + 1 / (2 * PRIOR_SD**2)), rel=1e-6)
    assert sum(found.strengths) == pytest.approx(0)


def test_a_tie_draws_two_contenders_together_and_one_that_always_wins_stays_finite() -> None:
    tied = estimate(2, [Outcome(0, 1, 0.5)] * 10)
    won = estimate(2, [Outcome(0, 1, 1.0)] * 1000)

    assert tied.strengths == pytest.approx((0, 0))
    assert 2 < won.strengths[0] < 10
    assert won.stronger(0, 1) > 0.99


def test_without_votes_nobody_leads() -> None:
    found = estimate(3, [])

    assert found.strengths == (0, 0, 0)
    assert found.stronger(0, 1) == 0.5
    assert estimate(0, []).strengths == ()


@pytest.mark.parametrize("count", [5, 8, 12])
def test_a_voter_who_is_sure_is_understood_in_about_n_log_n_votes(count: int) -> None:
    strengths = [float(place) for place in range(count)]
    random.Random(count).shuffle(strengths)

    shares = [
        agreement(strengths, list(simulated(strengths, pairs_needed(count), seed, noisy=False).strengths))
        for seed in range(4)
    ]

    assert sum(shares) / len(shares) > 0.97


def test_intervals_cover_the_truth_at_their_level() -> None:
    covered = []
    for seed in range(60):
        drawn = random.Random(1000 + seed)
        strengths = centred([drawn.gauss(0, 1.5) for _ in range(6)])
        found = simulated(strengths, 2 * pairs_needed(6), seed)
        covered += [
            low <= truth <= high for truth, (low, high) in zip(strengths, map(found.interval, range(6)), strict=True)
        ]

    # 360 intervals of 95 %: three standard errors are 3.4 %.
    assert 0.915 < sum(covered) / len(covered) < 0.985


def test_more_votes_narrow_the_intervals_and_name_the_best() -> None:
    strengths = centred([0.0, 0.5, 1.0, 2.5])

    few, many = simulated(strengths, 8, 1), simulated(strengths, 80, 1)

    assert many.covariance[3][3] < few.covariance[3][3] / 2
    assert max(range(4), key=many.strengths.__getitem__) == 3
    assert all(many.stronger(3, other) > 0.95 for other in range(3))


def test_a_voter_sees_each_pair_once_and_every_prompt_in_turn() -> None:
    contenders = [contender(step) for step in (0, 100, 200)]
    votes: list[Vote] = []
    for number in range(6):
        found = next_pair(contenders, estimate(3, outcomes_of(contenders, votes)), votes, "ada", random.Random(number))
        assert found is not None
        left, right, row = found
        votes.append(vote(left.column.step, right.column.step, row=int(row[-1]), number=number))

    pairs = {frozenset((vote.left.sample, vote.right.sample)) for vote in votes}
    assert len(pairs) == 6
    assert {sum(vote.row == row for vote in votes) for row in ("row0", "row1")} == {3}
    assert next_pair(contenders, estimate(3, []), votes, "ada", random.Random(0)) is None
    assert next_pair(contenders, estimate(3, []), votes, "bob", random.Random(0)) is not None, "another voter goes on"


def test_the_side_of_a_sample_is_drawn() -> None:
    contenders = [contender(0, 1), contender(100, 1)]

    first = {next_pair(contenders, estimate(2, []), [], "ada", random.Random(seed))[0].key for seed in range(20)}  # type: ignore[index]

    assert first == {"0", "100"}


def test_contenders_without_a_common_row_are_not_compared() -> None:
    lonely = Contender(key="x", run="cat", column=Column(key="x", step=5), samples={"other": "5-0"})

    assert next_pair([contender(0), lonely], estimate(2, []), [], "ada", random.Random(0)) is None


def test_the_table_counts_ties_and_bad_pairs_and_leaves_skipped_ones_out() -> None:
    contenders = [contender(step) for step in (0, 100, 200)]
    votes = [
        vote(100, 0),
        vote(200, 100, "equal", number=1),
        vote(0, 200, "bad", number=2),
        vote(0, 100, "skip", row=1, number=3),
        vote(200, 0, voter="bob", row=1),
    ]

    ranking = rank(["cat"], contenders, votes)

    by_title = {place.title: place for place in ranking.places}
    assert ranking.votes == 4
    assert (by_title["step 100"].wins, by_title["step 100"].votes) == (1.5, 2)
    assert (by_title["base model"].wins, by_title["base model"].bad) == (0.5, 1)
    assert [(voter.name, voter.votes) for voter in ranking.voters] == [("ada", 3), ("bob", 1)]
    assert ranking.places[-1].title == "base model"
    assert all(place.low < place.score < place.high for place in ranking.places)
    assert "base model" in "\n".join(lines(ranking))


def test_votes_for_samples_that_were_made_again_still_count() -> None:
    contenders = [
        Contender(key="100", run="cat", column=Column(key="100", step=100), samples={"row0": "new"}),
        contender(0),
    ]

    assert outcomes_of(contenders, [vote(100, 0)]) == [Outcome(0, 1, 1.0)]


def test_files_of_votes_forget_what_was_withdrawn_and_skip_broken_lines(tmp_path: Path) -> None:
    kept, gone, later = (vote(100, 0, number=number) for number in range(3))
    path = tmp_path / FILE_NAME
    for one in (kept, gone):
        append(path, one.model_dump_json())
    with path.open("a") as file:
        file.write('{"id": "cut sho')
    append(path, json.dumps({"withdrawn": gone.id}))
    append(path, later.model_dump_json())

    assert set(read_files([tmp_path, tmp_path / "missing"])) == {kept.id, later.id}


def test_csv_names_both_sides_and_holds_no_formulas() -> None:
    text = as_csv([vote(100, 0, voter="=cmd()")])

    assert "'=cmd()" in text
    assert "step 100" in text and text.count("\n") == 2


def test_of_too_many_contenders_the_base_model_and_the_last_one_stay() -> None:
    found = spread([contender(step) for step in range(0, 101)], 10)

    assert len(found) == 10
    assert (found[0].column.step, found[-1].column.step) == (0, 100)


def finished(number: int, draft: float | None) -> Entry:
    """A sample of one checkpoint, as the catalogue has it."""
    job = {"prompt": {"prompt": "a cat", "seed": 1}, "step": 100, "checkpoint": {"path": "/a", "fingerprint": "f"}}
    told = {} if draft is None else {"draft": draft}
    result = {"path": f"/{number}.png"}
    return Entry(str(number), "done", "", 0, 0, 0.0, 1.0, None, cancelling=False, job={**job, **told}, result=result)


def test_drafts_are_not_ranked_also_where_they_are_newer() -> None:
    ranked = field_of({"cut": [finished(2, 0.08), finished(1, None)]})
    assert [list(contender.samples.values()) for contender in ranked.contenders] == [["1"]]
    assert field_of({"cut": [finished(2, 0.08)]}).contenders == ()
