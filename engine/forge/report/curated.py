"""What the ledger and the store know of a curated recipe, and what the models of a commit want of it.

Invariant: all of it is about the documents that this commit asks for: records are found by step key, never by name. It is read
as it stands; who signed it, and whether the bytes are those that were signed, is what ``forge verify`` answers.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from forge.contract.kinds import StepKind
from forge.contract.record import Record
from forge.contract.survey import BYPRODUCT, SURVEY_FILE, Survey
from forge.errors import AssessError, StoreError, UsageError
from forge.ledger.ledger import Snapshot
from forge.plan.bases import estimate_model
from forge.plan.desired import Desired
from forge.plan.graph import build_graph
from forge.plan.step import FromCommit, FromStep, Step, key_of
from forge.plan.withdrawn import Descent
from forge.report.material import REPORT_FILE, CurateReport, Material, Use
from forge.report.readiness import TokenCount
from forge.spec.compiled import read_facts
from forge.spec.load import did_you_mean
from forge.spec.resource import DataRecipe, Model
from forge.store.store import Store

_KIND = "DataRecipe/"


class Recorded:
    """The records of a commit's steps, by step key."""

    def __init__(self, desired: Desired, snapshot: Snapshot) -> None:
        self.graph = build_graph(desired)
        self._snapshot = snapshot
        self._known: dict[str, tuple[str | None, Record | None]] = {}

    def key(self, step_id: str) -> str | None:
        """The key of a step; None where a step before it is not recorded."""
        return self._find(step_id)[0]

    def record(self, step_id: str) -> Record | None:
        """The record of a step as the commit asks for it; None where there is none."""
        return self._find(step_id)[1]

    def _find(self, step_id: str) -> tuple[str | None, Record | None]:
        if step_id not in self._known:
            self._known[step_id] = self._look(self.graph[step_id])
        return self._known[step_id]

    def _look(self, step: Step) -> tuple[str | None, Record | None]:
        inputs: dict[str, str] = {}
        for name, source in step.inputs.items():
            if isinstance(source, FromCommit):
                inputs[name] = source.bundle.digest
                continue
            before = self.record(source.step_id)
            if before is None or source.product not in before.products:
                return None, None
            inputs[name] = before.products[source.product]
        key = key_of(step, inputs)
        return key, self._snapshot.record(key)


def read_curated(address: str, desired: Desired, snapshot: Snapshot, store: Store) -> Material:
    """Everything about a recipe.

    Raises UsageError for what is no recipe of the commit, and AssessError where it was not curated or its report is gone.
    """
    if not address.startswith(_KIND) or address not in desired.compiled:
        known = [name for name in desired.compiled if name.startswith(_KIND)]
        wanted = f"{_KIND}NAME" if address.startswith(_KIND) or not known else "a recipe"
        raise UsageError(f"there is no {address}; expected {wanted}{did_you_mean(address, known)}")
    recipe = desired.resources[address]
    if not isinstance(recipe, DataRecipe):
        raise TypeError(f"{address} is no DataRecipe")
    recorded = Recorded(desired, snapshot)
    step_id = f"curate/{recipe.metadata.name}"
    record = recorded.record(step_id)
    if record is None:
        earlier = snapshot.latest(step_id)
        was = f"; it was curated as commit {earlier.commit[:12]} asks for, which is other data" if earlier is not None else ""
        raise AssessError(f"{address} was not curated as this commit asks for{was}: run `forge apply --target {address}` first")
    report = _report(address, record, store)
    if len(report.sources) != len(recipe.spec.sources):
        raise AssessError(
            f"{address}: its report tells of {len(report.sources)} sources, the recipe of {len(recipe.spec.sources)}:"
            f" the artifact {record.products['report']} is not what a curation of this recipe writes"
        )
    survey, fault = _survey(record, store, len(report.sources))
    remedy = f"`forge apply --target {address} --force {step_id}` curates again, and leaves it again"
    if BYPRODUCT not in record.byproducts:  # the ledger keeps no second record of the same products
        remedy = "the next curation leaves one: when the recipe or its sources change"
    uses = tuple(_uses(step_id, recorded, desired))
    return Material(
        recipe=address,
        commit=desired.commit or "the working tree",
        curated=record.commit,
        documents=record.products["documents"],
        spec=recipe.spec,
        report=report,
        survey=survey,
        survey_fault=fault,
        survey_remedy=remedy,
        is_lost=not store.has(record.products["documents"]),
        uses=uses,
        evaluated=_evaluated({use.model for use in uses}, desired),
        withdrawn=tuple(_withdrawn(step_id, recorded, record, desired, snapshot)),
    )


def _report(address: str, record: Record, store: Store) -> CurateReport:
    digest = record.products["report"]
    try:
        return CurateReport.model_validate_json(store.read_file(digest, REPORT_FILE))
    except StoreError as error:
        remedy = f"`forge apply --target {address}` makes what is lost again"
        raise AssessError(f"{address}: the report of its curation cannot be read: {error}: {remedy}") from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise AssessError(
            f"{address}: {REPORT_FILE} of {digest} is no report that this engine reads: {place}: {fault['msg']}"
        ) from error


def _survey(record: Record, store: Store, sources: int) -> tuple[Survey | None, str]:
    digest = record.byproducts.get(BYPRODUCT)
    if digest is None:
        return None, "the engine that curated it did not leave any"
    try:
        survey = Survey.model_validate_json(store.read_file(digest, SURVEY_FILE))
    except StoreError as error:
        return None, str(error)
    except ValidationError:
        return None, f"{SURVEY_FILE} of {digest} is none that this engine reads"
    if len(survey.lengths) != sources:
        return None, f"{SURVEY_FILE} of {digest} tells of {len(survey.lengths)} sources, which are not the recipe's"
    return survey, ""


def _uses(step_id: str, recorded: Recorded, desired: Desired) -> Iterator[Use]:
    """One for each input of a training that comes from the recipe, directly or as tokens."""
    graph = recorded.graph
    for step in graph.values():
        if step.kind is not StepKind.TRAIN or step.trial is not None:  # a trial reads what its model does
            continue
        for name, source in step.inputs.items():
            if isinstance(source, FromStep) and _reads(graph[source.step_id], step_id):
                yield _use(step, name, graph[source.step_id], recorded, desired)


def _reads(step: Step, step_id: str) -> bool:
    if step.id == step_id:
        return True
    sources = [source for source in step.inputs.values() if isinstance(source, FromStep)]
    return step.kind is StepKind.TOKENIZE and any(source.step_id == step_id for source in sources)


def _use(train: Step, name: str, tokenize: Step, recorded: Recorded, desired: Desired) -> Use:
    model = desired.resources[train.subject]
    if not isinstance(model, Model):
        raise TypeError(f"{train.subject} is no Model")
    trained, tokenized = recorded.record(train.id), recorded.record(tokenize.id) if tokenize.kind is StepKind.TOKENIZE else None
    parameters = trained.metrics.get("parameters") if trained is not None else None
    if not isinstance(parameters, int):
        parameters = estimate_model(model, desired.resources, desired.settings).parameters
    tokens, tokenizer, ratio = None, "the model's tokenizer", None
    count = tokenized.metrics.get("tokens_train") if tokenized is not None else None
    pieces = tokenize.inputs.get("tokenizer")
    if isinstance(pieces, FromStep):
        tokenizer = recorded.graph[pieces.step_id].subject
        made = recorded.record(pieces.step_id)
        ratio = made.metrics.get("bytes_per_token") if made is not None else None
    if isinstance(count, int):
        tokens = TokenCount(count, counted=True, basis=f"counted by {tokenize.id}")
    return Use(
        model=train.subject,
        objective=str(model.spec.objective),
        reads="data" if name == "tokens" else name,
        parameters=parameters,
        planned_tokens=_planned(model, name),
        tokens=tokens,
        tokenizer=tokenizer,
        bytes_per_token=float(ratio) if isinstance(ratio, int | float) and ratio > 0 else None,
    )


def _planned(model: Model, name: str) -> int | None:
    """Tokens that a training reads of one of its inputs; None for an objective that does not count in tokens."""
    total: Any = getattr(getattr(model.spec, "training", None), "tokens", None)
    replay = getattr(model.spec, "replay", None)
    if not isinstance(total, int):
        return None
    parts: dict[str, float] = {
        f"mixture-{index}": part.fraction for index, part in enumerate(getattr(model.spec, "mixture", ()))
    }
    if replay is not None:
        parts["replay"] = replay.fraction
    read = {part: round(total * fraction) for part, fraction in parts.items()}
    return read.get(name, total - sum(read.values()))


def _evaluated(models: set[str], desired: Desired) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for item in desired.compiled.values():
        if item.kind == "Deployment":
            facts = read_facts(item.facts)
            if facts["model"] in models:
                for suite, _ in facts["gates"]:
                    found.setdefault(suite, set()).add(facts["model"])
    return {suite: tuple(sorted(names)) for suite, names in found.items()}


def _withdrawn(step_id: str, recorded: Recorded, record: Record, desired: Desired, snapshot: Snapshot) -> Iterator[str]:
    """By the commit, or by the ledger as it stands."""
    step = recorded.graph[step_id]
    reason = Descent(desired, snapshot).reason(step, record.key, snapshot.made(record.key), {})
    if reason is not None:
        yield f"{reason.subject} is withdrawn by this commit: {reason.new}"
        return
    bundles = [source.bundle for source in step.inputs.values() if isinstance(source, FromCommit)]
    files = [file.sha256 for bundle in bundles for file in bundle.files.values()]
    names = {record.subject, *record.inputs.values(), *record.products.values(), *files}
    for subject, noted in snapshot.withdrawals().items():
        if subject in names and not noted.lifted:
            yield f"{subject} is withdrawn: {noted.reason}"
