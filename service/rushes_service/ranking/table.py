"""The ranking: every contender with its strength, its interval and its votes, the best first."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import ConfigDict, Field

from rushes.wire.base import FrozenModel
from rushes_service.ranking.contenders import Contender
from rushes_service.ranking.estimate import Estimate, Outcome, estimate
from rushes_service.ranking.pairing import pairs_needed
from rushes_service.ranking.votes import Vote

EXAMPLE_PLACE = {
    "key": "400-9a7d4c3f8e2a-1",
    "run": "cat",
    "title": "step 400",
    "step": 400,
    "score": 0.81,
    "low": 0.12,
    "high": 1.5,
    "votes": 9,
    "wins": 7.5,
    "best": 0.74,
    "path": "/data/output/cat-000400.safetensors",
}


class Place(FrozenModel):
    """One contender in the ranking. Scores are Bradley-Terry strengths in logits; their mean is 0."""

    key: str
    run: str
    title: str
    step: int = 0
    strength: float = 1.0
    base: bool = False
    score: float
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")
    votes: int = Field(description="Votes on pairs with it, without skipped ones.")
    wins: float = Field(description="Votes won; a tie is half a win.")
    bad: int = Field(default=0, description="Votes that found both samples bad.")
    best: float = Field(description="Least probability, over all others, that it is better than another.")
    path: str | None = Field(default=None, description="The checkpoint's file; null for the base model.")
    sample: str | None = Field(default=None, description="One of its samples; its checkpoint is downloaded by it.")
    architecture: str = Field(default="", description="Family of the base model.")
    model: str | None = Field(default=None, description="Directory or hub id of the base model, if it has one.")
    output_dir: str = Field(default="", description="Output directory of its samples.")


class Voter(FrozenModel):
    """How many votes somebody has given, without skipped ones."""

    name: str
    votes: int


class Ranking(FrozenModel):
    """The contenders of some runs, the best first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "runs": ["cat"],
                    "votes": 21,
                    "needed": 20,
                    "places": [EXAMPLE_PLACE],
                    "voters": [{"name": "ada", "votes": 21}],
                }
            ]
        }
    )

    runs: tuple[str, ...]
    votes: int = Field(description="Votes that count: skipped ones do not.")
    needed: int = Field(description="Votes after which the order is usually found: N log2 N.")
    places: tuple[Place, ...]
    voters: tuple[Voter, ...]
    left_out: int = Field(default=0, description="Checkpoints that are not ranked because there are too many.")


def outcomes_of(contenders: Sequence[Contender], votes: Iterable[Vote]) -> list[Outcome]:
    """Votes between these contenders, by index."""
    index = {contender.key: place for place, contender in enumerate(contenders)}
    by_sample = {sample: place for place, contender in enumerate(contenders) for sample in contender.samples.values()}
    found: list[Outcome] = []
    for vote in votes:
        # By sample first: a vote given in a ranking of several runs has other keys.
        left, right = (by_sample.get(side.sample, index.get(side.contender)) for side in (vote.left, vote.right))
        if vote.share is not None and left is not None and right is not None and left != right:
            found.append(Outcome(left, right, vote.share))
    return found


def rank(runs: Sequence[str], contenders: Sequence[Contender], votes: Sequence[Vote], left_out: int = 0) -> Ranking:
    """The ranking of `contenders` by `votes`."""
    outcomes = outcomes_of(contenders, votes)
    found = estimate(len(contenders), outcomes)
    bad = Counter(side.sample for vote in votes if vote.choice == "bad" for side in (vote.left, vote.right))
    places = [place(index, contenders, found, outcomes, bad) for index in range(len(contenders))]
    voters = Counter(vote.voter for vote in votes if vote.share is not None)
    return Ranking(
        runs=tuple(runs),
        votes=len(outcomes),
        needed=pairs_needed(len(contenders)),
        places=tuple(sorted(places, key=lambda found: -found.score)),
        voters=tuple(Voter(name=name, votes=count) for name, count in voters.most_common()),
        left_out=left_out,
    )


def place(
    index: int, contenders: Sequence[Contender], found: Estimate, outcomes: Sequence[Outcome], bad: Counter[str]
) -> Place:
    """One contender's line."""
    contender = contenders[index]
    low, high = found.interval(index)
    won = [
        outcome.share if outcome.first == index else 1 - outcome.share
        for outcome in outcomes
        if index in (outcome.first, outcome.second)
    ]
    others = [found.stronger(index, other) for other in range(len(contenders)) if other != index]
    return Place(
        key=contender.key,
        run=contender.run,
        title=contender.title,
        step=contender.column.step,
        strength=contender.column.strength,
        base=contender.column.base,
        score=round(found.strengths[index], 4),
        low=round(low, 4),
        high=round(high, 4),
        votes=len(won),
        wins=sum(won),
        bad=sum(bad[sample] for sample in contender.samples.values()),
        best=round(min(others, default=1.0), 4),
        path=contender.path,
        sample=next(iter(contender.samples.values()), None) if contender.checkpoint else None,
        architecture=str(contender.model.get("architecture", "")),
        model=contender.model.get("model"),
        output_dir=contender.output_dir,
    )


def as_csv(votes: Iterable[Vote]) -> str:
    """Votes as CSV, a line each."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        [
            "id",
            "at",
            "voter",
            "choice",
            "row",
            *(f"{side}_{name}" for side in ("left", "right") for name in ("run", "contender", "title", "sample")),
        ]
    )
    for vote in votes:
        sides = [
            getattr(side, name) for side in (vote.left, vote.right) for name in ("run", "contender", "title", "sample")
        ]
        writer.writerow([vote.id, f"{vote.at:.3f}", guarded(vote.voter), vote.choice, vote.row, *map(guarded, sides)])
    return text.getvalue()


def guarded(text: str) -> str:
    """A text that spreadsheets do not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def lines(ranking: Ranking) -> list[str]:
    """The ranking as a table for a terminal."""
    several = len(ranking.runs) > 1
    rows = [["", "checkpoint", "score", "95 % interval", "votes", "won", "best"]]
    for number, found in enumerate(ranking.places, start=1):
        title = f"{found.run}: {found.title}" if several else found.title
        won = f"{100 * found.wins / found.votes:.0f} %" if found.votes else ""
        rows.append(
            [
                str(number),
                title,
                f"{found.score:+.2f}",
                f"{found.low:+.2f} to {found.high:+.2f}",
                str(found.votes),
                won,
                f"{100 * found.best:.0f} %",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            f"{value:<{width}}" if column == 1 else f"{value:>{width}}"
            for column, (value, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
