"""Whether anything can have changed since a plan found everything in sync: one comparison instead of a plan.

A plan is a function of what the commit says (``Desired.fingerprint``), the ledger's head, the store's listing, leases and the
engine. When all of them are what they were when a plan had nothing to do, it has nothing to do now. The note is disposable and
this clone's; it is written only for a state that has stood still long enough for file times to tell it from a later one.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from forge import __version__
from forge.canonical import digest_of_json
from forge.executors.open_runs import open_runs
from forge.ledger.refs import LEASE_REFS, Refs
from forge.plan.action import SETTLED, ActionKind, Plan
from forge.plan.desired import Desired
from forge.repo.repository import Repository
from forge.store.store import Store

_FILE = "in-sync.json"
_SCHEMA = 1
_STILL_SECONDS = 2.0
"""A change within the same tick of the file system's clock as the note could not be told from the state it describes."""


class Scene(NamedTuple):
    """All that a glance looks at. It is less than a ``Place``, so that one can be had before a place is opened."""

    repository: Repository
    desired: Desired
    refs: Refs
    """Where leases lie."""
    head: Callable[[], str | None]
    """The ledger's commit, checked and up to date; asked only where everything else may be as it was."""
    store: Store
    work: Path


def glance(scene: Scene) -> Plan | None:
    """The plan in which everything is in sync, its actions only counted; None where it takes a plan to tell."""
    path = scene.repository.state_folder / _FILE
    try:
        note = json.loads(path.read_bytes())
        token, steps, reused, fingerprint = note["token"], int(note["steps"]), int(note["reused"]), note["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if fingerprint != scene.desired.fingerprint:
        return None
    found = _token(scene)
    if found is None or token != found[0]:
        return None
    return Plan(scene.desired.commit, scene.desired.settings.currency, (), num_unlisted=steps, num_reused=reused)


def note_in_sync(scene: Scene, plan: Plan) -> None:
    """Keep in mind that a whole plan of this state had nothing to do; a plan that had anything to do or to say is not noted."""
    if not plan.actions or plan.refusals or any(action.kind not in SETTLED for action in plan.actions):
        return
    found = _token(scene)
    if found is None or time.time() - found[1] < _STILL_SECONDS:
        return
    path = scene.repository.state_folder / _FILE
    temporary = path.with_name(f"{_FILE}.{os.getpid()}.tmp")
    steps = {"steps": len(plan.actions), "reused": sum(action.kind is ActionKind.REUSE for action in plan.actions)}
    temporary.write_text(json.dumps({"token": found[0], **steps, "fingerprint": scene.desired.fingerprint}))
    temporary.replace(path)


def _token(scene: Scene) -> tuple[str, float] | None:
    """A digest of everything that a plan reads, and the time of the store's newest change; None where it cannot be told."""
    if scene.desired.fingerprint is None or open_runs(scene.work) or scene.refs.below(LEASE_REFS):
        return None
    stored = scene.store.listing_times()
    if stored is None:
        return None
    rows = [f"{folder} {time_ns}" for folder, time_ns in stored]
    token = digest_of_json([_SCHEMA, __version__, scene.desired.fingerprint, scene.head(), *rows])
    return token, max((row[1] for row in stored), default=0) / 1e9
