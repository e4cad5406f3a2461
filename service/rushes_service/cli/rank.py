"""Print the blind ranking of a run's checkpoints, or export its votes.

Votes are given on the page `/rank` of `rushes api`. They are kept beside the samples, so that `--directory` prints the
ranking without Redis.

examples:
  rushes rank cat                              the best checkpoint first, with 95 % intervals
  rushes rank cat cat-rank32                   two runs of the same prompts
  rushes rank cat --votes votes.csv            every vote, as CSV or (votes.json) JSON
  rushes rank --directory output/
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rushes.client.client import Client
from rushes.errors import ConfigError, InputError, OutputError
from rushes_service.catalogue.entries import Entry
from rushes_service.ranking.contenders import Field
from rushes_service.ranking.votes import Vote

HELP = "print the blind ranking of a run's checkpoints, or export its votes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes rank`."""
    parser.add_argument("names", metavar="RUN", nargs="*", help="run to rank; several are ranked together")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="read samples and votes from here, without Redis")
    parser.add_argument("--voter", metavar="NAME", help="count the votes of one person only")
    parser.add_argument("--votes", type=Path, metavar="FILE", help="write the votes as CSV or JSON, by the file's name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--redis-url", help="Redis or Valkey server (RUSHES_REDIS_URL)")


def run(args: argparse.Namespace) -> int:
    """Print the ranking.

    Raises:
        ConfigError: neither a run nor a directory is named.
        RushesError: there is no such run or directory, or the votes cannot be written.
    """
    from rushes_service.ranking.contenders import read_field
    from rushes_service.ranking.table import lines, rank
    from rushes_service.ranking.votes import VoteStore, read_files

    if bool(args.names) == bool(args.directory):
        raise ConfigError("name a run, or a directory with --directory (not both)")
    if args.directory:
        found = from_directory(args.directory)
        votes = sorted(read_files(found.directories).values(), key=lambda vote: vote.at)
    else:
        client = Client(args.redis_url)
        found = read_field(client, args.names)
        votes = VoteStore(client, found.runs, found.directories).votes()
    if args.votes:
        write_votes(args.votes, votes)
    chosen = [vote for vote in votes if args.voter in (None, vote.voter)]
    ranking = rank(found.runs, found.contenders, chosen, found.left_out)
    if args.json:
        print(ranking.model_dump_json(indent=2))
        return 0
    print("\n".join(lines(ranking)))
    voters = ", ".join(f"{voter.name} {voter.votes}" for voter in ranking.voters)
    print(f"\n{ranking.votes} votes ({voters or 'nobody has voted'}); the order usually takes {ranking.needed}")
    best = next((place for place in ranking.places if not place.base), None)
    if ranking.votes and best is not None and best.path:
        print(f"keep {best.title}: {best.path}")
    return 0


def from_directory(directory: Path) -> Field:
    """The contenders of the samples in a directory, by their receipts.

    Raises:
        InputError: there is no sample with a receipt in it.
    """
    from rushes_service.catalogue import adoption
    from rushes_service.ranking.contenders import field_of

    runs: dict[str, list[Entry]] = {}
    for found in adoption.find(directory, None, [], lambda text: print(f"rushes: {text}", file=sys.stderr)):
        runs.setdefault(found.job.run, []).append(adoption.as_entry(found))
    for entries in runs.values():
        entries.sort(key=lambda entry: entry.finished_at or 0.0, reverse=True)
    if not runs:
        raise InputError(f"{directory} holds no sample with a receipt")
    return field_of(runs)


def write_votes(target: Path, votes: list[Vote]) -> None:
    """Write votes as the suffix of `target` says.

    Raises:
        ConfigError: the suffix is neither .csv nor .json.
        OutputError: it cannot be written.
    """
    from rushes_service.ranking.table import as_csv

    if target.suffix not in (".csv", ".json"):
        raise ConfigError(f"--votes {target}: the name must end with .csv or .json")
    text = (
        as_csv(votes)
        if target.suffix == ".csv"
        else json.dumps([vote.model_dump(mode="json") for vote in votes], indent=1)
    )
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
    print(f"{target}: {len(votes)} votes")
