"""Whether a pointer was moved by something that is not the commit that is planned."""

from collections.abc import Sequence

from forge.contract.record import Release
from forge.plan.live import Live


def was_moved(moves: Sequence[Release], live: Live) -> bool:
    """Whether an environment's last move is none that the planned commit follows from: another branch's, or a step back."""
    return live.is_elsewhere(moves[-1].commit) or _goes_back(moves)


def _goes_back(moves: Sequence[Release]) -> bool:
    """Whether the last move followed no newer commit.

    It names a commit that others had followed, or serves again what the commit that it names had moved away from.
    The ledger alone says so: that a move was for a commit of another branch, Git has to tell (``Live.is_elsewhere``).
    """
    asked_for: dict[str, str] = {}
    for move in moves:
        asked_for.setdefault(move.commit, move.release)
    *earlier, last = moves
    if next(reversed(asked_for)) != last.commit:
        return True
    return asked_for[last.commit] != last.release and any(move.release == last.release for move in earlier)
