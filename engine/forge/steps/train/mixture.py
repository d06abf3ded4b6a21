"""Which data the sequence at a position of a training is of: a pure function of the position, of no total and no batch.

Rules:
1. Of the first n sequences floor(n * fraction) are replayed, for every n: the mixture is exact wherever a run ends, and never
   more than one sequence behind. The fraction is a rational number; no float adds up errors.
2. The sequences of each kind are read in the order that they have by themselves (``data``, rule 2): replaying leaves none of
   the model's own data out and reads none twice.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache


@dataclass(frozen=True)
class Place:
    """Where the sequence at a position comes from."""

    is_replayed: bool
    position: int
    """Among the sequences of its kind."""


def place_of(position: int, fraction: Fraction) -> Place:
    """The kind of the sequence at a position of the training, and its number among that kind, from 0."""
    before = num_replayed(position, fraction)
    if num_replayed(position + 1, fraction) > before:
        return Place(True, before)
    return Place(False, position - before)


def num_replayed(sequences: int, fraction: Fraction) -> int:
    """How many of the first so many sequences are replayed."""
    return sequences * fraction.numerator // fraction.denominator


@dataclass(frozen=True)
class Share:
    """What a training takes of other data."""

    fraction: Fraction
    """Of all sequences."""
    max_epochs: Fraction | None
    """The most passes over it; None: any number."""


def kind_of(position: int, fractions: tuple[Fraction, ...]) -> tuple[int | None, int]:
    """Which kind the sequence at a position is of, None for the model's own, and its number among that kind, from 0.

    ``fractions``: of all sequences, for each other kind; together less than 1.
    """
    for kind, turn in enumerate(_turns(fractions)):
        place = place_of(position, turn)
        position = place.position
        if place.is_replayed:
            return kind, position
    return None, position


def counts_of(sequences: int, fractions: tuple[Fraction, ...]) -> tuple[int, ...]:
    """How many of the first so many sequences are of each other kind, and last of the model's own."""
    counts = []
    for turn in _turns(fractions):
        counts.append(num_replayed(sequences, turn))
        sequences -= counts[-1]
    return (*counts, sequences)


@lru_cache(maxsize=8)
def _turns(fractions: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """What each kind takes of the sequences that those before it left."""
    turns, left = [], Fraction(1)
    for fraction in fractions:
        turns.append(fraction / left)
        left -= fraction
    return tuple(turns)
