"""Which sequences of a training are replayed: a pure function of the position, so it depends on no total and no batch.

Rules:
1. Of the first n sequences floor(n * fraction) are replayed, for every n: the mixture is exact wherever a run ends, and never
   more than one sequence behind. The fraction is a rational number; no float adds up errors.
2. The sequences of each kind are read in the order that they have by themselves (``data``, rule 2): replaying leaves none of
   the model's own data out and reads none twice.
"""

from dataclasses import dataclass
from fractions import Fraction


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
