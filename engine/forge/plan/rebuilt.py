"""What a plan comes to if what the store lost is made again with the bytes that are recorded.

A step's products are deterministic, so a lost artifact comes back as it was, and what reads it has nothing to do. Where it
comes out otherwise after all, the plan is made again before what follows starts, and then all of that counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from forge.plan.action import Action
from forge.plan.live import EVERY_ARTIFACT, Live
from forge.plan.reason import ReasonKind

_LOST = (ReasonKind.ARTIFACT_MISSING, ReasonKind.ARTIFACT_CORRUPT)


def if_rebuilt_alike(actions: Sequence[Action], live: Live, decide: Callable[[Live], Sequence[Action]]) -> Sequence[Action]:
    """The actions that are left, the rebuilding among them, when every lost artifact comes back as it was.

    ``decide``: the planner's decision for another state of the world; asked once for each rank of lost artifacts.
    """
    rebuilt: dict[str, Action] = {}
    while True:
        again = {action.id: action for action in actions if _lost(action) and action.id not in rebuilt}
        if not again:
            return [*rebuilt.values(), *(action for action in actions if action.id not in rebuilt)]
        rebuilt |= again
        lost = {digest for action in again.values() for digest in _lost(action)}
        stored = live.stored if live.stored is EVERY_ARTIFACT else live.stored | lost
        live = replace(live, stored=stored, corrupt=live.corrupt - lost)
        actions = decide(live)


def _lost(action: Action) -> list[str]:
    """The artifacts that an action makes once more, because they are gone."""
    return [reason.old for reason in action.reasons if reason.kind in _LOST and reason.old] if action.again else []
