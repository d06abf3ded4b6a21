"""What ran: the attempts whose folders lie here, and those that the ledger tells of, as one list, the newest first."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from forge.canonical import hex_of
from forge.contract.messages import FailureCause
from forge.contract.record import Attempt, Record
from forge.errors import UsageError
from forge.executors.runs import Run, RunState, local_runs
from forge.ledger.ledger import Snapshot
from forge.spec.load import did_you_mean

_NEWEST_ENTRIES = 2000
"""How far back the ledger is read: history is for people, who look at what is recent."""


def runs_of(snapshot: Snapshot, work: Path) -> list[Run]:
    """Every attempt that is known here, the newest first."""
    recorded = {(run.key, run.attempt): run for run in _recorded(snapshot)}
    names = {run.key: run.step_id for run in recorded.values()}
    found: list[Run] = []
    for run in local_runs(work):
        told = recorded.pop((run.key, run.attempt), None)
        if told is not None and run.state is not RunState.RUNNING:
            run = replace(told, last=run.last, folder=run.folder, started=told.started or run.started)  # noqa: PLW2901
        found.append(replace(run, step_id=names.get(run.key, run.step_id)))
    return sorted([*found, *recorded.values()], key=lambda run: (run.started or "", run.key, run.attempt), reverse=True)


def find_runs(runs: Sequence[Run], name: str) -> list[Run]:
    """The attempts that a name means, the newest first: ``KEY-ATTEMPT`` one, ``KEY`` or a step's id all of its newest run.

    A key may be shortened as long as it is unique. Raises UsageError for a name that means none, or several runs.
    """
    key, _, attempt = name.removeprefix("sha256:").partition("-")
    matching = {run.key for run in runs if hex_of(run.key).startswith(key)} if key else set()
    if len(matching) > 1:
        listed = ", ".join(sorted(hex_of(each)[: len(key) + 4] for each in matching))
        raise UsageError(f"{name} means several runs: {listed}")
    found = [run for run in runs if run.key in matching and attempt in ("", str(run.attempt))]
    if not found:
        newest = next((run.key for run in runs if run.step_id == name), None)
        found = [run for run in runs if run.key == newest]
    if not found:
        known = dict.fromkeys(run.step_id for run in runs)
        trials = [step_id for step_id in known if step_id.rpartition(".")[0] == name]
        if trials:  # of a search, whose best trial is the model: it is not trained once more
            which = "`forge plan` says which of them it is"
            raise UsageError(f"no run {name!r} of its own; its search has {', '.join(sorted(trials))}: {which}")
        raise UsageError(f"no run {name!r} (`forge runs` lists them){did_you_mean(name, known)}")
    return found


def _recorded(snapshot: Snapshot) -> Iterable[Run]:
    last = snapshot.head[0]
    for sequence in range(last, max(0, last - _NEWEST_ENTRIES), -1):
        entry = snapshot.entry(sequence)
        body = entry.body if entry is not None else None
        if isinstance(body, Record):
            yield Run(body.key, body.attempt, body.step_id, RunState.FINISHED, body.started, body.actual.seconds)
        elif isinstance(body, Attempt):
            state = RunState.STOPPED if body.cause is FailureCause.STOPPED else RunState.FAILED
            yield Run(body.key, body.attempt, body.step_id, state, None, body.seconds, body.message)
