"""A world in memory: a ledger and a store that a plan can be made of and carried out in, without doing any work."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter

from tests.conftest import SETTINGS, SPECS

from forge.canonical import digest_of_bytes
from forge.contract.kinds import STEPS, StepKind
from forge.contract.record import (
    Made,
    Pointer,
    Protection,
    Record,
    Release,
    Renamed,
    Renaming,
    Retirement,
    Spent,
    Subject,
    Withdrawal,
)
from forge.ledger.subjects import Note, subjects_of
from forge.plan.action import Action, ActionKind, Plan
from forge.plan.blame import Alike
from forge.plan.desired import Bundle, BundleFile, Desired
from forge.plan.graph import build_graph
from forge.plan.live import Live, Running
from forge.plan.plan import make_plan
from forge.plan.recorded import EVERYTHING, Scope, Span
from forge.plan.step import FromCommit, Step
from forge.spec.load import load
from forge.spec.resolve import resolve
from forge.spec.settings import read_settings

ALL = [
    "curate/small",
    "tokenizer/small",
    "tokenize/small",
    "train/small",
    "evaluate/small.small",
    "gate/small-local",
    "release/small-local",
]
Product = Callable[[Step, str], str]


def desired_of(
    changes: dict[str, tuple[str, str]] | None = None,
    *,
    corpus: bytes = b"text",
    policy: bytes = b"{}",
    commit: str = "c",
    without: Iterable[str] = (),
    settings: str = SETTINGS,
    models: Iterable[str] = (),
) -> Desired:
    """The small repository's specs with some text replaced, and more models, as a commit named by one hexadecimal digit."""
    files = [(f"models/other-{number}.yaml", text.encode()) for number, text in enumerate(models)]
    for path, text in SPECS.items():
        old, new = (changes or {}).get(path, ("", ""))
        assert old in text
        if path not in without:
            files.append((path, text.replace(old, new).encode()))
    loaded = load(files)
    resolved = resolve(loaded.resources)
    assert not loaded.diagnostics, loaded.diagnostics
    assert not resolved.diagnostics, resolved.diagnostics

    def bundle(data: bytes) -> Bundle:
        return Bundle({"file": BundleFile(len(data), digest_of_bytes(data), origin="file")})

    bundles = {}
    for address in resolved.resources:
        kind = address.split("/", 1)[0]
        if kind == "DataRecipe":
            bundles[address, "source-0"] = bundle(corpus)
        elif kind == "EvalSuite":
            bundles[address, "tasks"] = bundle(b"tasks")
        elif kind == "InferencePolicy":
            bundles[address, "policy"] = bundle(policy)
    return Desired(commit * 40, read_settings(settings.encode(), "0.1.0"), resolved.resources, bundles)


@dataclass(frozen=True)
class PastOf:
    """The past of a world, as an explanation asks about it (``records`` is the world's own by key)."""

    world: "World"

    def records(self, step_id: str) -> Iterator[tuple[int, Record]]:
        return self.world.history_of(step_id)

    def blobs(self, commit: str | None, paths: Iterable[str]) -> Mapping[str, str] | None:
        files = self.world.files.get(commit)
        return None if files is None else {path: files[path] for path in paths if path in files}

    def value_since(self, address: str, older: str, newer: str | None, alike: Alike) -> str | None:
        assert older != newer
        return self.world.blamed.get(address)

    def removed_since(self, address: str, older: str) -> str | None:
        return self.world.blamed.get(address)

    def files_since(self, before: Iterable[str], after: Iterable[str], older: str, newer: str | None) -> str | None:
        assert older != newer
        return next((self.world.blamed[path] for path in (*before, *after) if path in self.world.blamed), None)


@dataclass
class World:
    """What was recorded, what is stored, and what is at work."""

    records: dict[str, Record] = field(default_factory=dict)
    newest: dict[str, Record] = field(default_factory=dict)
    moves: dict[str, list[Release | Retirement]] = field(default_factory=dict)
    notes: list[tuple[int, Protection | Retirement | Release | Renaming]] = field(default_factory=list)
    """With their numbers in the ledger."""
    stored: set[str] = field(default_factory=set)
    corrupt: set[str] = field(default_factory=set)
    running: dict[str, Running] = field(default_factory=dict)
    stopped: dict[str, tuple[Running, ...]] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    """Commits that no planned one descends from."""
    signed_charter: str | None = None
    """Digest of the charter that the root signed last."""
    withdrawn: dict[str, Withdrawal] = field(default_factory=dict)
    signers: dict[str, str] = field(default_factory=dict)
    """Step key -> the id of the key that signed its record."""
    files: dict[str | None, dict[str, str]] = field(default_factory=dict)
    """Commit -> path -> what Git calls the file's bytes; None: what is planned."""
    blamed: dict[str, str] = field(default_factory=dict)
    """Address of a resource, or path of a file -> the commit that changed it."""
    _history: list[tuple[int, Record]] = field(default_factory=list)
    _sequence: int = 0

    def history_of(self, step_id: str) -> Iterator[tuple[int, Record]]:
        """Every record under a step id, newest first."""
        return ((sequence, record) for sequence, record in reversed(self._history) if record.step_id == step_id)

    def made(self, key: str) -> Made | None:
        record = self.records.get(key)
        if record is None:
            return None
        return Made(
            key,
            record.step_id,
            record.subject,
            record.commit,
            record.step_version,
            self._sequence,
            record.inputs,
            record.products,
            record.byproducts,
            str(record.metrics["verdict"]) if "verdict" in record.metrics else None,
            str(record.metrics.get("failed", "")),
            record.actual.seconds,
            record.actual.cost,
        )

    def made_many(self, keys: Iterable[str]) -> Mapping[str, Made]:
        return {key: made for key in keys if (made := self.made(key)) is not None}

    def latest(self, step_id: str) -> Record | None:
        return self.newest.get(step_id)

    def latest_of(self, spans: Iterable[Span]) -> Record | None:
        found = [
            (sequence, record)
            for step_id, after, until in spans
            for sequence, record in self.history_of(step_id)
            if after < sequence <= until
        ]
        return max(found, key=itemgetter(0))[1] if found else None

    def renamings(self) -> list[Renamed]:
        return [Renamed(number, note.subject, note.previous) for number, note in self.notes if isinstance(note, Renaming)]

    def release(self, environment: str) -> Release | None:
        moves = self.moves.get(environment, [])
        return moves[-1] if moves and isinstance(moves[-1], Release) else None

    def releases(self, environment: str) -> tuple[Release, ...]:
        return tuple(move for move in self.moves.get(environment, []) if isinstance(move, Release))

    def environments(self) -> tuple[str, ...]:
        return tuple(sorted(self.moves))

    def pointers(self) -> Mapping[str, Pointer]:
        serving = ((name, self.release(name)) for name in self.moves)
        return {name: Pointer(name, move.deployment, move.release) for name, move in serving if move is not None}

    def charter(self) -> str | None:
        return self.signed_charter

    def subjects(self) -> Mapping[str, Subject]:
        newest = dict.fromkeys((record.subject for record in self.records.values()), 0)
        newest |= {record.subject: sequence for sequence, record in self._history}
        return subjects_of(newest, map(_row, self.notes))

    def withdrawals(self) -> Mapping[str, Withdrawal]:
        return dict(self.withdrawn)

    def signed_by(self, keyid: str) -> frozenset[str]:
        return frozenset(key for key, signer in self.signers.items() if signer == keyid)

    @property
    def live(self) -> Live:
        look = Live(frozenset(self.stored), frozenset(self.corrupt), dict(self.running), dict(self.stopped))
        return replace(look, is_elsewhere=self.elsewhere.__contains__)

    def plan(self, desired: Desired, scope: Scope = EVERYTHING) -> Plan:
        return make_plan(desired, self, self.live, scope)

    def finish(
        self, desired: Desired, action: Action, *, verdict: str = "GO", product: Product = lambda step, key: key
    ) -> None:
        """Do an action; products are named by the key unless ``product`` says otherwise."""
        self._sequence += 1
        commit = desired.commit or ""
        if action.kind is ActionKind.RETIRE:
            retired = Retirement(subject=action.subject, environment=action.environment, commit=commit, moved="later")
            self.notes.append((self._sequence, retired))
            if action.environment is not None:
                self.moves[action.environment].append(retired)
            return
        if action.withdraw is not None:
            item = action.withdraw
            self.withdrawn[item.subject] = Withdrawal(
                subject=item.subject,
                reason=item.reason,
                serving=item.serving,  # type: ignore[arg-type]
                lifted=item.lifted,
                supersedes=None,
                commit=commit,
                moved="later",
            )
            return
        if action.kind is ActionKind.PROTECT:
            note = Protection(subject=action.subject, protected=bool(action.protect), commit=commit)
            self.notes.append((self._sequence, note))
            return
        if action.kind is ActionKind.RENAME:
            renaming = Renaming(subject=action.subject, previous=desired.previous[action.subject], commit=commit)
            self.notes.append((self._sequence, renaming))
            return
        assert action.key is not None
        step = build_graph(desired)[action.id]
        if not action.products:
            self._record(step, action, commit, verdict, product)
        if step.kind is StepKind.RELEASE:
            release = Release(
                environment=step.environment or "",
                deployment=step.name,
                release=self.records[action.key].products["release"],
                key=action.key,
                commit=commit,
                moved="2026-01-01T00:00:10.000+00:00",
            )
            self.moves.setdefault(release.environment, []).append(release)
            self.notes.append((self._sequence, release))

    def _record(self, step: Step, action: Action, commit: str, verdict: str, product: Product) -> None:
        key = action.key or ""
        products = {name: digest_of_bytes(f"{name} {product(step, key)}".encode()) for name in STEPS[step.kind].products}
        names = ["checkpoint", *(f"checkpoint-{point}" for point in step.settings.get("branches", ()))]
        kept = names if step.kind is StepKind.TRAIN else []
        byproducts = {name: digest_of_bytes(f"{name} {key}".encode()) for name in kept}
        record = Record(
            key=key,
            step=step.kind,
            step_version=STEPS[step.kind].version,
            step_id=step.id,
            subject=step.subject,
            parameters=dict(step.parameters),
            inputs=dict(action.inputs),
            sources={
                name: source.bundle.sources
                for name, source in step.inputs.items()
                if isinstance(source, FromCommit) and source.bundle.sources
            },
            products=products,
            byproducts=byproducts,
            metrics={"verdict": verdict, "failed": ""} if step.kind is StepKind.GATE else {},
            commit=commit,
            attempt=1,
            started="2026-01-01T00:00:00.000+00:00",
            finished="2026-01-01T00:00:10.000+00:00",
            environment={},
            actual=Spent(seconds=10),
            attestations={},
        )
        self.records[key] = self.newest[step.id] = record
        self._history.append((self._sequence, record))
        self.stored.update(products.values(), byproducts.values())
        self.corrupt.difference_update(products.values())

    def apply(
        self, desired: Desired, *, scope: Scope = EVERYTHING, verdict: str = "GO", product: Product = lambda step, key: key
    ) -> tuple[Plan, list[str]]:
        """Do what ``apply`` does; returns the last plan and what was done."""
        done: list[str] = []
        plan = self.plan(desired, scope)
        while plan.changes:
            action = next(action for action in plan.changes if action.key is not None or action.step is None)
            done.append(action.id)
            self.finish(desired, action, verdict=verdict, product=product)
            scope = Scope(scope.target, scope.force - {action.id})
            plan = self.plan(desired, scope)
        return plan, done


def _row(noted: tuple[int, Protection | Retirement | Release | Renaming]) -> Note:
    """A note as the ledger's index keeps it."""
    number, note = noted
    match note:
        case Release():
            return number, note.kind, f"Deployment/{note.deployment}", note.environment, note.release
        case Protection():
            return number, note.kind, note.subject, None, "yes" if note.protected else "no"
        case Renaming():
            return number, note.kind, note.subject, None, note.previous
    return number, note.kind, note.subject, note.environment, note.commit
