"""The decision: desired, recorded and live state -> ordered actions, each with its reason.

``make_plan`` is the one function that decides; ``forge plan`` shows what it returns and ``forge apply`` does it. An
action whose inputs do not exist yet is "decided after" the steps that make them: its key is not known, and it may turn
out that nothing has to be done (early cutoff). Rules:
1. A step whose key is recorded and whose products are in the store is never run again, whatever its name is now.
2. A step whose key a runner works at is awaited, never started a second time.
3. What leaves the commit is retired, never deleted; what the ledger notes as protected is not even retired.
4. What descends from something withdrawn is blocked, in sync or not (``forge.plan.withdrawn``).
5. Nothing here asks a clock, a file or the network: equal arguments give equal plans.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from forge.contract.kinds import StepKind
from forge.contract.record import Made, Pointer, Record, Release
from forge.plan.action import SETTLED, Action, ActionKind, Plan
from forge.plan.approvals import tally
from forge.plan.bases import estimate_model
from forge.plan.blame import Blame
from forge.plan.causes import Causes
from forge.plan.continuation import Place, find_earlier
from forge.plan.cost import Estimate, estimate_from_history
from forge.plan.desired import Desired
from forge.plan.drift import was_moved
from forge.plan.graph import build_graph
from forge.plan.lineage import Lineage
from forge.plan.live import Live, Running
from forge.plan.notes import about_resources
from forge.plan.reason import Reason, ReasonKind
from forge.plan.rebuilt import if_rebuilt_alike
from forge.plan.recorded import EVERYTHING, Recorded, Scope
from forge.plan.residency import residency_refusals
from forge.plan.step import FromCommit, FromStep, Step, key_of
from forge.plan.upkeep import approvals_cover_release, approvals_needed, plan_approvals_needed, refusals_of
from forge.plan.withdrawn import Descent, about_withdrawals
from forge.spec.resource import Model
from forge.spec.trials import SWEEP


def make_plan(desired: Desired, recorded: Recorded, live: Live, scope: Scope = EVERYTHING, blame: Blame | None = None) -> Plan:
    """Decide. ``blame`` only adds to reasons which commit brought a change."""
    graph = build_graph(desired)
    chosen = _with_needs(graph, scope.target) if scope.target else None

    def decide(world: Live) -> list[Action]:
        planner = _Planner(desired, recorded, world, scope.force, blame)
        for wave in _waves(graph, chosen):
            planner.decide(wave)
        return [planner.actions[step_id] for step_id in graph if step_id in planner.actions]

    actions = decide(live)
    if chosen is None:
        actions.extend(about_resources(desired, graph, recorded))
        actions.extend(about_withdrawals(desired, recorded, live.unheld))
    plan = Plan(desired.commit, desired.settings.currency, tuple(actions))

    def expected() -> Plan:
        return replace(plan, actions=tuple(if_rebuilt_alike(plan.actions, live, decide)))

    refusals = (*refusals_of(plan, desired, recorded, graph, expected), *residency_refusals(plan, desired, graph))
    return replace(plan, refusals=refusals, approvals=plan_approvals_needed(plan, desired))


def _waves(graph: Mapping[str, Step], chosen: set[str] | None) -> list[list[Step]]:
    """Steps by how many others they come after: those of one wave do not read each other, so they are looked up together."""
    depths: dict[str, int] = {}
    waves: list[list[Step]] = []
    for step_id, step in graph.items():
        depth = 0
        for source in step.inputs.values():
            if isinstance(source, FromStep) and depths[source.step_id] >= depth:
                depth = depths[source.step_id] + 1
        for name in step.after:
            depth = max(depth, depths[name] + 1)
        depths[step_id] = depth
        if chosen is None or step_id in chosen:
            while len(waves) <= depth:
                waves.append([])
            waves[depth].append(step)
    return waves


def _with_needs(graph: Mapping[str, Step], target: frozenset[str]) -> set[str]:
    pending = [step.id for step in graph.values() if step.subject in target]
    chosen: set[str] = set()
    while pending:
        step_id = pending.pop()
        if step_id not in chosen:
            chosen.add(step_id)
            pending.extend(item.step_id for item in graph[step_id].inputs.values() if isinstance(item, FromStep))
            pending.extend(graph[step_id].after)
    return chosen


@dataclass
class _Planner:
    """The decisions so far, in the order of the graph, and what they rest on."""

    desired: Desired
    recorded: Recorded
    live: Live
    force: frozenset[str]
    blame: Blame | None
    actions: dict[str, Action] = field(default_factory=dict)
    _steps: dict[str, Step] = field(default_factory=dict)
    """Those that were decided, or are being decided."""
    _running: Mapping[str, Running] = field(init=False)
    _pointers: Mapping[str, Pointer] = field(init=False)
    _lineage: Lineage = field(init=False)
    _causes: Causes = field(init=False)
    _made_by_key: dict[str, Made] = field(default_factory=dict)
    """What was looked up so far: a gate's verdict is asked for once more by its release."""
    _descent: Descent | None = field(init=False)
    """None where nothing is withdrawn: then it costs nothing."""

    def __post_init__(self) -> None:
        self._running = {running.step_id: running for running in self.live.running.values()}
        self._pointers = self.recorded.pointers()
        self._lineage = Lineage(self.desired, self.recorded)
        self._causes = Causes(self.recorded, self.live, self.blame, self.actions)
        self._descent = Descent(self.desired, self.recorded) if self.desired.withdrawn else None

    def decide(self, wave: Iterable[Step]) -> None:
        """What happens to steps that do not read each other, given what happens to the steps before them."""
        resolved = [(step, *self._resolve_inputs(step)) for step in wave]
        keys = {step.id: key_of(step, inputs) for step, inputs, undecided, held in resolved if not undecided and not held}
        made = self.recorded.made_many(keys.values())
        self._made_by_key.update(made)
        for step, inputs, undecided, held in resolved:
            self._steps[step.id] = step
            key = keys.get(step.id)
            if self._descent is not None:
                known = made.get(key or "")
                withdrawn = self._descent.reason(step, key, known, self.actions)
                if withdrawn is not None:
                    products = known.products if known is not None else None
                    self.actions[step.id] = self._action(ActionKind.BLOCKED, step, (withdrawn,), key, inputs, products)
                    continue
            if key is None:
                action = self._without_key(step, undecided, held)
            else:
                action = self._with_key(step, key, inputs, made.get(key))
            if action.step is StepKind.RELEASE and action.does_something and action.inputs:
                action = self._if_reproduced(step, self._if_approved(step, action))
            if step.suspended and action.does_something:
                reasons = (Reason(ReasonKind.SUSPENDED, step.suspended), *action.reasons)
                action = Action(ActionKind.BLOCKED, step.id, step.subject, reasons, step.kind)
            self.actions[step.id] = action

    def _without_key(self, step: Step, undecided: list[str], held: list[str]) -> Action:
        """An input is not there yet."""
        if held:
            return self._gate_says_no(step) or self._blocked(step, Reason(ReasonKind.WAITS, ", ".join(held)))
        reason = Reason(ReasonKind.UPSTREAM, ", ".join(undecided))
        latest = self._latest(step)
        kind = ActionKind.RELEASE if step.kind is StepKind.RELEASE else self._run_kind(step, latest)
        return self._action(kind, step, (reason,), estimate=self._estimate(step, latest))

    def _with_key(self, step: Step, key: str, inputs: Mapping[str, str], made: Made | None) -> Action:
        if (
            made is not None
            and made.step_id == step.id
            and step.kind is not StepKind.RELEASE
            and step.id not in self.force
            and self.live.has_all(made.products.values())
        ):
            return Action(ActionKind.NOTHING, step.id, step.subject, _IN_SYNC, step.kind, key, inputs, made.products)
        refused = self._gate_says_no(step)
        if refused is not None:
            return refused
        return self._make(step, key, inputs) if made is None else self._made(step, key, inputs, made)

    def _gate_says_no(self, step: Step) -> Action | None:
        """The release of a model whose gate is there and says NO-GO is blocked, whatever else is to be done."""
        gate = self.actions.get(f"{StepKind.GATE}/{step.name}") if step.kind is StepKind.RELEASE else None
        verdict = self._made_by_key.get(gate.key or "") if gate is not None and gate.kind in SETTLED else None
        if verdict is None or verdict.verdict == "GO":
            return None
        return self._blocked(step, Reason(ReasonKind.GATE, verdict.failed))

    def _made(self, step: Step, key: str, inputs: Mapping[str, str], made: Made) -> Action:
        """The key is recorded: in sync, unless bytes were lost, someone forces it, or a pointer is elsewhere."""
        lost = [
            Reason(
                ReasonKind.ARTIFACT_CORRUPT if digest in self.live.corrupt else ReasonKind.ARTIFACT_MISSING, name, old=digest
            )
            for name, digest in made.products.items()
            if not self.live.has(digest)
        ]
        if lost or step.id in self.force:
            latest = self._latest(step)
            reasons = tuple(lost) or (Reason(ReasonKind.FORCED),)
            return self._action(
                self._run_kind(step, latest), step, reasons, key, inputs, estimate=self._estimate(step, latest), again=True
            )
        if step.kind is StepKind.RELEASE:
            pointer = self._pointers.get(_environment(step))
            if pointer is None or pointer.release != made.products["release"]:
                return self._move(step, key, inputs, made, self.recorded.release(_environment(step)))
        if made.step_id == step.id:
            return self._action(ActionKind.NOTHING, step, _IN_SYNC, key, inputs, made.products)
        reason = Reason(ReasonKind.MADE_ELSEWHERE, made.step_id, commit=made.commit)
        return self._action(ActionKind.REUSE, step, (reason,), key, inputs, made.products)

    def _move(self, step: Step, key: str, inputs: Mapping[str, str], made: Made, pointer: Release | None) -> Action:
        """A release that exists and that its environment does not serve."""
        environment, digest = _environment(step), made.products["release"]
        moves = self.recorded.releases(environment)
        before = [move for move in moves if move.release == digest]
        serves = pointer.release if pointer else None
        kind, why, commit = self._release_kind(step, inputs), ReasonKind.POINTER, pointer.commit if pointer else None
        if any(move.commit == self.desired.commit for move in before) or (before and pointer and was_moved(moves, self.live)):
            kind, why = ActionKind.ROLL_BACK, ReasonKind.DRIFTED
        elif before:
            kind, why, commit = ActionKind.ROLL_BACK, ReasonKind.RELEASED_BEFORE, before[-1].commit
        reasons = [Reason(why, environment, old=serves, new=digest, commit=commit)]
        if why is ReasonKind.DRIFTED and pointer is not None:
            moved_for = f"commit {pointer.commit[:12]} at {pointer.moved}"
            reasons.append(Reason(ReasonKind.MOVED_BY, moved_for, commit=pointer.commit))
        return self._action(kind, step, tuple(reasons), key, inputs, made.products)

    def _make(self, step: Step, key: str, inputs: Mapping[str, str]) -> Action:
        """The key is new: the step runs, from a checkpoint where that gives the same bytes."""
        latest = self._latest(step)
        reasons = tuple(self._causes.of(step, inputs, latest)) or (Reason(ReasonKind.CREATED),)
        estimate = self._estimate(step, latest)
        if step.kind is StepKind.RELEASE:
            return self._action(self._release_kind(step, inputs), step, reasons, key, inputs, estimate=estimate)
        at_work = self.live.running.get(key)
        if at_work is not None:
            reasons = (Reason(ReasonKind.IN_FLIGHT, at_work.holder, commit=at_work.commit), *reasons)
            action = self._action(self._run_kind(step, latest), step, reasons, key, inputs, estimate=estimate)
            return self._extended(action, step)
        coming = [name for name in step.after if self.actions[name].does_something]
        if coming:  # it may keep a checkpoint for this one
            return self._without_key(step, coming, [])
        replaces = None
        other = next((self._running[name] for name in self._lineage.ids(step) if name in self._running), None)
        if other is not None:
            replaces = other.key
            why = ReasonKind.SUPERSEDES if other.gives_way else ReasonKind.AWAITS_RUN
            reasons = (*reasons, Reason(why, other.holder, commit=other.commit))
        kind = self._run_kind(step, latest)
        action = self._action(kind, step, reasons, key, inputs, estimate=estimate, replaces=replaces)
        return self._extended(action, step, other)

    def _extended(self, action: Action, step: Step, other: Running | None = None) -> Action:
        """A training from the checkpoint of an earlier run, where there is one; also while it is at work: it began with it."""
        if step.kind is not StepKind.TRAIN or step.id in self.force:
            return action
        place = Place(self.live, self._descent, self.desired.settings.executor.threads)
        histories = {name: self._lineage.newest(self._steps[name]) for name in (step.id, *step.after)}
        found = find_earlier(step, action, self._lineage.ids(step), histories, other, place)
        action = replace(action, reasons=(*action.reasons, *found.reasons))
        if found.run is None:
            return action
        return replace(action, kind=ActionKind.EXTEND, estimate=_rest_of(action.estimate, found.tokens), continues=found.run)

    def _if_approved(self, step: Step, action: Action) -> Action:
        """The release with the approvals that it rests on; blocked where there are too few."""
        environment = _environment(step)
        needed = approvals_needed(self.desired, environment)
        if not needed:
            return action
        given = self.live.approvals.get(environment, ())
        asked = key_of(step, action.inputs) if approvals_cover_release(self.desired) else None
        found = tally(given, f"release/{environment}", action.inputs["weights"], action.inputs["verdict"], needed, asked)
        if found.suffices:
            return replace(action, approvals=tuple(item.entry for item in found.counted))
        reason = Reason(ReasonKind.APPROVAL, f"release/{environment} {found}")
        return replace(self._blocked(step, reason), inputs=action.inputs)

    def _if_reproduced(self, step: Step, action: Action) -> Action:
        """The release; blocked where too few functionaries have carried out what it rests on."""
        lacking = [count for count in self.live.reproductions.get(_environment(step), ()) if not count.suffices]
        if not lacking:
            return action
        reasons = tuple(Reason(ReasonKind.REPRODUCTION, str(count)) for count in lacking)
        held = action.reasons if action.kind is ActionKind.BLOCKED else ()
        return replace(self._blocked(step, reasons[0]), reasons=(*held, *reasons), inputs=action.inputs)

    def _resolve_inputs(self, step: Step) -> tuple[dict[str, str], list[str], list[str]]:
        """Digests of the inputs that are known; ids of the steps that others wait for; ids of those that are blocked."""
        inputs: dict[str, str] = {}
        undecided: list[str] = []
        held: list[str] = []
        for name, source in step.inputs.items():
            if isinstance(source, FromCommit):
                inputs[name] = source.bundle.digest
                continue
            upstream = self.actions[source.step_id]
            if upstream.kind in SETTLED:
                inputs[name] = upstream.products[source.product]
            else:
                waiting = held if upstream.kind is ActionKind.BLOCKED else undecided
                if source.step_id not in waiting:
                    waiting.append(source.step_id)
        return inputs, undecided, held

    def _release_kind(self, step: Step, inputs: Mapping[str, str]) -> ActionKind:
        pointer = self.recorded.release(_environment(step))
        current = self.recorded.made(pointer.key) if pointer else None
        return ActionKind.RELOAD if current and current.inputs["weights"] == inputs["weights"] else ActionKind.RELEASE

    def _run_kind(self, step: Step, latest: Record | None) -> ActionKind:
        again = latest is not None and step.kind in (StepKind.EVALUATE, StepKind.GATE)
        return ActionKind.RE_EVALUATE if again else ActionKind.RUN

    def _latest(self, step: Step) -> Record | None:
        """The newest record of the step, whatever its resources were called then."""
        return self._lineage.latest(step)

    def _blocked(self, step: Step, reason: Reason) -> Action:
        return self._action(ActionKind.BLOCKED, step, (reason,))

    def _action(
        self,
        kind: ActionKind,
        step: Step,
        reasons: tuple[Reason, ...],
        key: str | None = None,
        inputs: Mapping[str, str] | None = None,
        products: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Action:
        return Action(
            kind,
            step.id,
            step.subject,
            reasons,
            step.kind,
            key,
            inputs or {},
            products or {},
            environment=step.environment,
            **more,
        )

    def _is_a_trials(self, step: Step) -> bool:
        """Whether a model's training is that of whichever trial its search will pick: then it is done already by then."""
        first = self._steps.get(f"{step.id}.0")
        return first is not None and first.canonical_parameters == step.canonical_parameters

    def _estimate(self, step: Step, latest: Record | None) -> Estimate:
        if step.kind is not StepKind.TRAIN:
            return estimate_from_history(latest)
        model = self.desired.resources[step.subject]
        if not isinstance(model, Model):
            raise TypeError(f"{step.subject} is no Model")
        if SWEEP in step.parameters and step.trial is None and self._is_a_trials(step):
            return _NOTHING_TO_DO
        tokens = step.parameters["training"].get("tokens") if step.trial is not None else None
        estimate = estimate_model(model, self.desired.resources, self.desired.settings, tokens)
        return estimate if estimate.flops is not None else estimate_from_history(latest)


_IN_SYNC = (Reason(ReasonKind.IN_SYNC),)
_NOTHING_TO_DO = Estimate(seconds=0.0, cost=0.0, flops=0.0)


def _environment(step: Step) -> str:
    if step.environment is None:
        raise TypeError(f"{step.id} is no release")
    return step.environment


def _rest_of(estimate: Estimate, kept: int) -> Estimate:
    """The estimate of a run that need not repeat the tokens before its checkpoint."""
    if not estimate.tokens:
        return estimate
    share = max(0.0, 1.0 - kept / estimate.tokens)
    return replace(
        estimate,
        tokens=max(0, estimate.tokens - kept),
        seconds=None if estimate.seconds is None else estimate.seconds * share,
        cost=None if estimate.cost is None else estimate.cost * share,
        flops=None if estimate.flops is None else estimate.flops * share,
    )
