"""Blind ranking for the page: the next pair, votes and their withdrawal."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import ConfigDict, Field
from starlette.exceptions import HTTPException

from rushes.wire.base import FrozenModel, digest
from rushes_service.api.context import Context
from rushes_service.api.http.problems import invalid
from rushes_service.api.schemas import EXAMPLE_ID, RunName
from rushes_service.ranking.contenders import Contender
from rushes_service.ranking.contenders import Field as Contest
from rushes_service.ranking.estimate import estimate
from rushes_service.ranking.pairing import next_pair, pairs_needed
from rushes_service.ranking.table import Ranking, outcomes_of, rank
from rushes_service.ranking.votes import Choice, Side, Vote, VoteStore, new_id

VOTES_DIR = "votes"
"""Below the state directory: votes on runs whose output directory cannot be written."""

MAX_RUNS = 8


class Picture(FrozenModel):
    """One side of a pair. Its checkpoint is not told."""

    id: str
    video: bool = False
    fps: float | None = None
    width: int | None = None
    height: int | None = None


class Pair(FrozenModel):
    """Two samples of one prompt and seed, in random order; both are null when this voter has seen every pair."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"left": {"id": EXAMPLE_ID}, "right": {"id": EXAMPLE_ID}, "prompt": "a cat", "voted": 3, "needed": 20}
            ]
        }
    )

    left: Picture | None = None
    right: Picture | None = None
    prompt: str = ""
    voted: int = Field(default=0, description="Votes of this voter, skipped pairs included.")
    needed: int = Field(description="Votes after which the order is usually found.")
    last: str | None = Field(default=None, description="This voter's newest vote, which can be withdrawn.")


class VoteRequest(FrozenModel):
    """A vote on a pair."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"runs": ["cat"], "voter": "ada", "left": EXAMPLE_ID, "right": EXAMPLE_ID, "choice": "left"}]
        }
    )

    runs: tuple[RunName, ...] = Field(min_length=1, max_length=MAX_RUNS)
    voter: str = Field(min_length=1, max_length=60, pattern=r"^[^\x00-\x1f\x7f]+$", description="Who votes.")
    left: str = Field(description="Sample that was shown left.")
    right: str = Field(description="Sample that was shown right.")
    choice: Choice


def store_of(context: Context, contest: Contest) -> VoteStore:
    """Where the votes of a ranking are kept: beside the samples, else below the state directory."""
    directories = [directory for directory in contest.directories if writable(directory)]
    if not directories:
        own = context.settings.state_dir / VOTES_DIR / digest(contest.runs[0], 32)
        try:
            own.mkdir(parents=True, exist_ok=True)
            directories = [own]
        except OSError:
            pass
    # Votes that lie in directories that can only be read still count.
    return VoteStore(context.client, contest.runs, directories, read_also=contest.directories)


def writable(directory: Path) -> bool:
    """True if files can be made in `directory`."""
    return os.access(directory, os.W_OK | os.X_OK)


def ranking_of(context: Context, runs: Sequence[str], voter: str | None) -> Ranking:
    """The ranking of some runs by all votes, or by those of one voter."""
    contest = context.contests.of(runs, fresh=True)
    votes = store_of(context, contest).votes()
    chosen = [vote for vote in votes if voter is None or vote.voter == voter]
    found = rank(contest.runs, contest.contenders, chosen, contest.left_out)
    everybody = rank(contest.runs, contest.contenders, votes).voters if voter else found.voters
    return found.model_copy(update={"voters": everybody})


def pair_for(context: Context, runs: Sequence[str], voter: str) -> Pair:
    """The pair that `voter` is shown next.

    Raises:
        HTTPException: there are not two checkpoints with a sample of the same prompt and seed (409).
    """
    contest = context.contests.of(runs)
    votes = store_of(context, contest).votes()
    mine = [vote for vote in votes if vote.voter == voter]
    found = estimate(len(contest.contenders), outcomes_of(contest.contenders, votes))
    chosen = next_pair(contest.contenders, found, votes, voter, random.Random())
    facts = {"voted": len(mine), "needed": pairs_needed(len(contest.contenders)), "last": mine[-1].id if mine else None}
    if chosen is None:
        if not any(vote.left.sample for vote in mine):
            raise HTTPException(
                409, "there is nothing to compare yet: two checkpoints need a sample of one prompt and seed"
            )
        return Pair(**facts)
    left, right, row = chosen
    prompt = contest.prompts.get(row) or contest.prompts.get(row.partition("-")[0], "")
    return Pair(
        left=picture(context, left.samples[row]), right=picture(context, right.samples[row]), prompt=prompt, **facts
    )


def picture(context: Context, sample: str) -> Picture:
    """A sample as it is shown in a pair."""
    result = context.client.get(sample).result
    if result is None:
        return Picture(id=sample)
    video = result.media_type == "video/mp4"
    return Picture(id=sample, video=video, fps=result.fps, width=result.width, height=result.height)


def add_vote(context: Context, asked: VoteRequest) -> Vote:
    """Keep a vote.

    Raises:
        RequestValidationError: the samples are not a pair of this ranking.
    """
    contest = context.contests.of(asked.runs)
    places = {sample: (contender, row) for contender in contest.contenders for row, sample in contender.samples.items()}
    for side in ("left", "right"):
        if getattr(asked, side) not in places:
            raise invalid(side, f"{getattr(asked, side)} is no finished sample of these runs")
    (left, row), (right, other_row) = places[asked.left], places[asked.right]
    if row != other_row or left.key == right.key:
        raise invalid("right", "a pair is two checkpoints' samples of one prompt and seed")
    vote = Vote(
        id=new_id(),
        at=round(time.time(), 3),
        voter=asked.voter,
        row=row,
        left=side_of(left, asked.left),
        right=side_of(right, asked.right),
        choice=asked.choice,
    )
    store_of(context, contest).add(vote)
    return vote


def side_of(contender: Contender, sample: str) -> Side:
    """A contender's sample in a vote."""
    return Side(sample=sample, contender=contender.column.key, title=contender.title, run=contender.run)


def withdraw_vote(context: Context, runs: Sequence[str], vote_id: str) -> None:
    """Take a vote back.

    Raises:
        HTTPException: there is no such vote (404).
    """
    store = store_of(context, context.contests.of(runs))
    vote = next((vote for vote in store.votes() if vote.id == vote_id), None)
    if vote is None:
        raise HTTPException(404, f"there is no vote {vote_id}: was it withdrawn already?")
    store.withdraw(vote)
