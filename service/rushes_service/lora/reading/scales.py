"""What a module's factors are multiplied by, from everything that the file states; contradictions are refused."""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rushes.errors import LoraValue
from rushes_service.lora.reading.keys import TEXT
from rushes_service.lora.reading.statements import Statement, truth

NO_ALPHA = "1, since nothing states an alpha"
FROM_TENSORS = "alpha of each module"
FOLDED = "1: the alpha of its trainer was multiplied into the factors when it was converted"

SAME = 1e-2
"""Two scales are one if they differ by less: alpha in bfloat16 has three digits."""

PATTERNS = ("alpha_pattern", "rank_pattern")

LARGEST_RANK = 1 << 20
"""Ranks beyond are none: ai-toolkit writes ten thousand million for "as large as can be"."""


class Scales:
    """The scales of one file's modules.

    Args:
        path: of the file, for messages.
        statements: what its header states.
        metadata: its header's entries.
        keys: its keys.

    Raises:
        LoraValue: two places of the header contradict each other.
    """

    def __init__(
        self, path: Path, statements: Iterable[Statement], metadata: Mapping[str, str], keys: Iterable[str]
    ) -> None:
        self._path = path
        self.folded = was_converted(metadata, list(keys))
        self._statements = [
            statement for statement in statements if not (self.folded and statement.place.startswith("ss_network"))
        ]
        arguments = network_arguments(metadata)
        self.split_qkv = truth(arguments.get("split_qkv", False))
        self._rank_stabilised = truth(arguments.get("rs_lora", False))
        self._merged = functools.cache(self._merge)
        self._sources: Counter[str] = Counter()
        self._ranks: dict[str | None, dict[str, float]] = {}
        self._alphas: dict[str | None, dict[str, tuple[float, float]]] = {}

    def scale(self, name: str, rank: float, alpha: float | None, expert: str | None = None) -> float:
        """What the product of a module's factors is multiplied by.

        Args:
            rank: of the factors as they were trained.
            alpha: the module's own, among the tensors.

        Raises:
            ValueError: the module's alpha contradicts the file's configuration, or is 0.
        """
        stated = self._merged(expert)
        there = stated.alpha_of(name)
        by_header = None if there is None else there / (math.sqrt(rank) if stated.rank_stabilised else rank)
        if alpha is None and by_header is not None:
            self._ranks.setdefault(expert, {})[name] = rank
            self._sources[stated.place] += 1
            return by_header
        if alpha is None:
            self._sources[FOLDED if self.folded else NO_ALPHA] += 1
            return 1.0
        if alpha == 0:
            raise ValueError("has an alpha of 0, which some programs take for the rank and others for no effect at all")
        if stated.config is not None and by_header is not None and not same(by_header, alpha / rank):
            raise ValueError(
                f"has an alpha of {alpha:g} for its rank {rank:g} among the tensors, but {stated.place} states a scale "
                f"of {by_header:g}; it is not clear which is meant"
            )
        self._alphas.setdefault(expert, {})[name] = (alpha, rank)
        self._sources[FROM_TENSORS] += 1
        return alpha / rank

    def whole_scale(self, name: str, alpha: float | None, expert: str | None = None) -> float:
        """The scale of a LoKr whose factors are both whole, which has no rank of its own.

        PEFT goes by its configuration. LyCORIS sets alpha to the rank it was asked for, so that it cancels; with
        `rs_lora` the square root of that rank remains, and its 1.5th power is what it writes (lycoris-lora 3.4,
        modules/lokr.py).
        """
        stated = self._merged(expert)
        there, rank = stated.alpha_of(name), stated.rank_of(name)
        if stated.config is not None and there is not None:
            self._sources[stated.place] += 1
            return there / (math.sqrt(rank or 1) if stated.rank_stabilised else rank or 1)
        if alpha is None or alpha <= 0:
            return 1.0
        trained = alpha ** (2 / 3)
        fits = rank is not None and (same(trained, rank) or math.isinf(alpha))
        if not (self._rank_stabilised or self._shows_root(alpha, rank)):
            return 1.0
        if math.isinf(trained) and not fits:
            raise ValueError(
                "has an alpha beyond its precision, of which rs_lora needs the root; its rank is not stated"
            )
        self._sources[FROM_TENSORS] += 1
        return math.sqrt(rank if rank is not None and fits else trained)

    def _shows_root(self, alpha: float, rank: float | None) -> bool:
        """True if the alpha of a whole LoKr is the 1.5th power of a rank, though nothing says `rs_lora`."""
        if alpha > LARGEST_RANK:
            return False
        trained = alpha ** (2 / 3)
        odd = not float(alpha).is_integer() and abs(trained - round(trained)) < SAME
        return odd or (rank is not None and same(trained, rank) and not same(alpha, rank))

    def rank_of_pieces(self, down: torch.Tensor, up: torch.Tensor, rows: Sequence[int]) -> int:
        """Rank that the factors of a fused module were trained with.

        sd-scripts' `split_qkv` trains a LoRA for each of the pieces and writes them as one: the downs one below
        another, the ups as blocks of a diagonal, and an alpha that is still that of a single piece.

        Args:
            down: [rank, in].
            up: [out, rank].
            rows: how many rows of `up` each piece has.

        Raises:
            ValueError: it was trained so, but is no longer of that form.
        """
        rank = len(down)
        stated = self._merged(None).rank
        pieces = len(rows)
        by_rank = stated is not None and stated * pieces == rank
        if pieces < 2 or not (self.split_qkv or by_rank) or sum(rows) != len(up):
            return rank
        if rank % pieces or not is_block_diagonal(up, rows):
            if self.split_qkv and not same(stated or rank, rank):
                raise ValueError("was trained with split_qkv, but its up matrix is no diagonal of blocks")
            return rank
        return rank // pieces

    def stated_alpha(self, name: str, expert: str | None = None) -> float | None:
        """Alpha of a module by the file's header or configuration; None if neither states one."""
        return self._merged(expert).alpha_of(name)

    def check(self) -> None:
        """Raise `LoraValue` where what the header states is true of no module at all."""
        for expert, ranks in self._ranks.items():
            stated = self._merged(expert)
            if stated.rank is not None and not any(same(stated.rank_of(n) or r, r) for n, r in ranks.items()):
                raise LoraValue(
                    f"{self._path}: {stated.place} states rank {stated.rank:g}, but its factors have rank "
                    f"{next(iter(ranks.values())):g}; it belongs to another file, or one of them was changed"
                )
        for expert, alphas in self._alphas.items():
            stated = self._merged(expert)
            if stated.alpha is None or stated.config is not None:
                continue
            if not any(self._agrees(stated.alpha, *found) for found in alphas.values()):
                name, (alpha, _) = next(iter(alphas.items()))
                raise LoraValue(
                    f"{self._path}: {stated.place} states alpha {stated.alpha:g}, but {name}.alpha among the tensors "
                    f"is {alpha:g}; it is not clear which is meant"
                )

    def _agrees(self, stated: float, alpha: float, rank: float) -> bool:
        """True if a module's alpha is the stated one; LyCORIS writes it times the root of the rank for `rs_lora`."""
        return same(stated, alpha) or (self._rank_stabilised and same(stated * math.sqrt(rank), alpha))

    @property
    def source(self) -> str:
        """Where the scales of the modules are from, for the receipt."""
        return "; ".join(dict.fromkeys(source for source, _ in self._sources.most_common())) or "none is needed"

    @property
    def unstated(self) -> bool:
        """True if the scale of some module was taken to be 1."""
        return bool(self._sources[NO_ALPHA])

    def _merge(self, expert: str | None) -> Statement:
        """One statement out of those that are for an expert, or for a text encoder."""
        text = expert is not None and expert.startswith(TEXT)
        own = [
            statement
            for statement in self._statements
            if statement.expert in (None, expert) and not (text and statement.denoiser)
        ]
        special = [statement for statement in own if statement.expert is not None]
        own = special or own
        patterns = [self._one("the patterns", own, lambda s, key=key: getattr(s, key) or None) for key in PATTERNS]
        alpha, rank = (self._one(key, own, lambda s, key=key: getattr(s, key)) for key in ("alpha", "rank"))
        return Statement(
            place=" and ".join(dict.fromkeys(s.place for s in own if s.alpha is not None)) or listed(own),
            alpha=alpha,
            rank=rank,
            rank_stabilised=self._one("rank-stabilised", own, lambda s: s.rank_stabilised),
            alpha_pattern=patterns[0] or {},
            rank_pattern=patterns[1] or {},
            config=next((s.config for s in own if s.config is not None and s.alpha is not None), None),
        )

    def _one(self, what: str, statements: list[Statement], get: Callable[[Statement], Any]) -> Any:
        """What all statements that say anything say alike.

        Raises:
            LoraValue: two differ.
        """
        found = [(statement.place, value) for statement in statements if (value := get(statement)) is not None]
        for place, value in found[1:]:
            if value != found[0][1]:
                raise LoraValue(
                    f"{self._path}: {what} is {shown(found[0][1])} in {found[0][0]}, but {shown(value)} in {place}; it "
                    "is not clear which is meant"
                )
        return found[0][1] if found else None


def was_converted(metadata: Mapping[str, str], keys: list[str]) -> bool:
    """True for what a kohya trainer wrote and a converter renamed to `lora_A` and `lora_B`.

    Those trainers write an alpha for each module. The converters (musubi-tuner's convert_lora.py, sd-scripts'
    convert_flux_lora.py) multiply it into the factors and keep the header, whose `ss_network_alpha` then is no more.
    """
    kohya = "ss_network_module" in metadata
    return kohya and any(".lora_A." in key for key in keys) and not any(key.endswith(".alpha") for key in keys)


def network_arguments(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of a kohya trainer's network (`ss_network_args`)."""
    try:
        found = json.loads(metadata.get("ss_network_args") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_block_diagonal(up: torch.Tensor, rows: Sequence[int]) -> bool:
    """True for a matrix of zeros beside one block for each piece."""
    rank = up.shape[1] // len(rows)
    start = 0
    for index, count in enumerate(rows):
        piece = up[start : start + count]
        if piece[:, : index * rank].any() or piece[:, (index + 1) * rank :].any():
            return False
        start += count
    return True


def same(one: float, other: float) -> bool:
    """True for two numbers that differ by rounding alone."""
    return math.isclose(one, other, rel_tol=SAME)


def shown(value: object) -> str:
    """A value for a message."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def listed(statements: list[Statement]) -> str:
    """The places of statements."""
    return " and ".join(dict.fromkeys(statement.place for statement in statements))
