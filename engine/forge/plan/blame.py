"""Which commit brought a change: what is asked of Git's history, and what counts as the same.

A commit that only touched a file brought nothing. What is sought is the commit in which a value came to be what it is: it has
it, and none of its parents does. A resource is followed wherever its file goes, and by the name that it had before.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from forge.contract.hyperparameters import Pick
from forge.contract.kinds import StepKind
from forge.plan.differences import Part, differences
from forge.plan.step import FromCommit, Step
from forge.spec.compiled import Compiled, read_json
from forge.spec.trials import SWEEP

Alike = Callable[[Compiled, Compiled], bool]
"""(a resource as a commit has it, as it is now) -> whether that of it which is asked about is the same."""


class Blame(Protocol):
    """Git's history, as far as a reason asks: only about what changed. ``newer`` None: what is planned.

    None is the answer where it cannot be told: the history is not here, is too long, or does not lead from one to the other.
    """

    def value_since(self, address: str, older: str, newer: str | None, alike: Alike) -> str | None:
        """The commit after one in which something about a resource came to be what it is."""
        ...

    def removed_since(self, address: str, older: str) -> str | None:
        """The commit after one, which held a resource, that took it out."""
        ...

    def files_since(self, before: Iterable[str], after: Iterable[str], older: str, newer: str | None) -> str | None:
        """The commit after one in which files came to be what they are: the paths that were read then, and those read now."""
        ...


def owner_of(step: Step) -> str:
    """Address of the resource that a step's parameters are fields of."""
    if step.kind is StepKind.SWEEP and step.parameters["pick"] != Pick.WRITTEN:
        return str(step.settings["sweep"])
    tasks = step.inputs.get("tasks") if step.kind is StepKind.EVALUATE else None
    return tasks.address if isinstance(tasks, FromCommit) else step.subject


def same_field(step: Step, path: tuple[Part, ...]) -> Alike:
    """Whether a parameter of a step is the same; of a search, whether all that is searched is."""
    if step.kind is StepKind.SWEEP:
        return lambda then, now: then.parameters == now.parameters
    if path[0] == SWEEP:  # which fields a training leaves to a sweep: as a reference to it came, or went
        return same_references
    if step.kind is StepKind.RELEASE:
        return lambda then, now: _is_same(read_json(then.served), read_json(now.served), path)
    return lambda then, now: _is_same(read_json(then.parameters), read_json(now.parameters), path)


def same_in_policy(path: tuple[Part, ...]) -> Alike:
    """Whether a field of a policy is the same."""
    return lambda then, now: _is_same(json.loads(then.served)["spec"], json.loads(now.served)["spec"], path)


def same_policy(then: Compiled, now: Compiled) -> bool:
    """Whether a policy serves the same."""
    return then.served == now.served


def same_references(then: Compiled, now: Compiled) -> bool:
    """Whether a resource reads from the same others."""
    return then.references == now.references


def _is_same(old: Any, new: Any, path: tuple[Part, ...]) -> bool:
    """Whether two values differ neither at a path, nor below or around it."""
    for each in differences(old, new):
        shared = min(len(each.path), len(path))
        if each.path[:shared] == path[:shared]:
            return False
    return True
