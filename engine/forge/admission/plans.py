"""What was done under a plan that people had to approve, judged anew by the approvals that its record names.

1. A record or a release that is made under a supply chain by which its plan needs approvals names them, and its signature
   covers that. A delegation with statements 1 was signed when nothing named them: what is made under it need not.
2. The approvals are entries of the ledger before it, all of one plan, of the same commit, which holds this very step.
3. Enough of them count: signed by approvers, each with a key that was valid then, none of them an author of what the plan
   brings: of the commits since the approved releases that stood in the ledger when the approval was given.
4. An approved plan is carried out once: no earlier record of the step, or move of the environment, names the same approval.

Which plans need approvals may hang on their cost (``above_cost``), and a plan that needed none is not kept. So what is asked
of a record then is what it proves by itself: it is a training whose own estimate is above the limit, or has no price.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from forge.admission.approvals import Authors, authors_of, judge_approvals, separates_authors
from forge.admission.history import History
from forge.admission.moves import Moves
from forge.admission.verdict import Check, Finding, Rule
from forge.attest.approval import APPROVED_PLAN
from forge.contract.kinds import StepKind
from forge.contract.record import Approval, Record, Release
from forge.errors import RefusedError
from forge.ledger.entry import Entry
from forge.plan.approvals import tally
from forge.plan.saved import PlannedSteps, planned_steps
from forge.repo.repository import Repository
from forge.spec.supply_chain import PlanRules

_REMEDY = "`forge plan --out FILE`, `forge approve FILE` and `forge apply FILE` make it under an approved plan"


@dataclass(frozen=True)
class Done:
    """A record or a release, and where it stands in the ledger."""

    body: Record | Release
    sequence: int

    @property
    def step_id(self) -> str:
        """The step that a plan holds for it."""
        return self.body.step_id if isinstance(self.body, Record) else f"{StepKind.RELEASE}/{self.body.deployment}"


def authors_at(repository: Repository, moves: Moves, history: History, approval: Entry) -> Authors | None:
    """Who wrote what a plan brings, as of its approval; None where authors and approvers are not kept apart.

    Args:
        repository: where the commits are.
        moves: the ledger's releases.
        history: who was trusted when.
        approval: the entry; what stood in the ledger before it is no change of this plan.
    """
    authority = history.authority(approval.sequence)
    if not separates_authors(authority) or not isinstance(approval.body, Approval):
        return None
    before = moves.approved_commits(approval.sequence)
    return authors_of(repository, approval.body.commit, before, authority, history.authors_since())


def judge_plans(
    done: Sequence[Done],
    entries: Sequence[Entry],
    attestations: Mapping[str, bytes],
    authors: Mapping[int, Authors | None],
    history: History,
) -> list[Finding | Check]:
    """Whether what is judged was done under plans that people approved, where that was asked.

    Args:
        done: the records and the release of the chain.
        entries: the whole ledger.
        attestations: by digest; an approval's absent one is a reason why it does not count.
        authors: by number of an approval's entry (``authors_at``).
        history: who was trusted when.
    """
    judge = _Judge(entries, attestations, authors, history)
    findings: list[Finding | Check] = []
    approvers: set[str] = set()
    num_held = 0
    for each in done:
        found = list(judge.findings(each, approvers))
        findings += found
        num_held += bool(each.body.plan_approvals and not found)
    if num_held:
        message = f"{num_held} of {len(done)} steps and moves were made under plans approved by {', '.join(sorted(approvers))}"
        findings.append(Check(Rule.APPROVAL, message))
    return findings


class _Judge:
    """The ledger, by what a record names."""

    def __init__(
        self,
        entries: Sequence[Entry],
        attestations: Mapping[str, bytes],
        authors: Mapping[int, Authors | None],
        history: History,
    ) -> None:
        self._attestations, self._authors, self._history = attestations, authors, history
        self._approvals = {
            str(entry.digest): entry for entry in entries if isinstance(entry.body, Approval) and entry.body.subject == "plan"
        }
        self._uses: dict[tuple[str, str], list[int]] = defaultdict(list)
        """By approval and by what was done: the numbers of the entries that name it."""
        for entry in entries:
            if isinstance(entry.body, Record | Release):
                for digest in entry.body.plan_approvals:
                    self._uses[digest, _use(entry.body)].append(entry.sequence)

    def findings(self, done: Done, approvers: set[str]) -> Iterator[Finding]:
        """What is at fault; ``approvers`` gets the people who count."""
        body, place = done.body, done.step_id if isinstance(done.body, Record) else f"release of {done.body.environment}"
        needed = self._needed(done)
        if not needed and not body.plan_approvals:
            return
        named = [self._approvals[digest] for digest in body.plan_approvals if digest in self._approvals]
        lost = [digest for digest in body.plan_approvals if digest not in self._approvals]
        for digest in lost:
            yield Finding(Rule.APPROVAL, place, f"it names {digest}, which is no approval of a plan in the ledger: {_REMEDY}")
        for entry in named:
            fault = self._fault_of_plan(done, entry)
            if fault is not None:
                yield Finding(Rule.APPROVAL, place, f"{fault}: {_REMEDY}")
                return
        given = [
            item
            for entry in named
            for item in judge_approvals(
                [entry], self._attestations, self._history, done.sequence, self._authors.get(entry.sequence)
            )
        ]
        digest = given[0].digest if given else ""
        found = tally(given, "plan", digest, None, needed)
        if not found.suffices:
            yield Finding(Rule.APPROVAL, place, f"its plan {found}: {_REMEDY}")
        elif not lost:
            approvers.update(item.person for item in found.counted)

    def _fault_of_plan(self, done: Done, entry: Entry) -> str | None:
        body = entry.body
        if not isinstance(body, Approval) or entry.sequence >= done.sequence:
            return f"it names the approval {entry.digest}, which the ledger did not hold before it"
        who = f"the plan that {body.person} approved (entry {entry.sequence})"
        data = self._attestations.get(body.attestations.get(APPROVED_PLAN, ""))
        if data is None:
            return f"{who} is not kept with the approval"
        try:
            return self._mismatch(done, body, planned_steps(data), who) or self._use_before(done, entry, who)
        except RefusedError as error:
            return f"{who}: {error}"

    @staticmethod
    def _mismatch(done: Done, approval: Approval, plan: PlannedSteps, who: str) -> str | None:
        key = done.body.key
        if plan.digest != approval.digest:
            return f"{who} is {approval.digest}, and {plan.digest} is kept with the approval"
        if {plan.commit, approval.commit} != {done.body.commit}:
            return f"{who} is of commit {plan.commit}, and this was done for commit {done.body.commit}"
        if plan.steps.get(done.step_id, "another") not in (None, key):
            return f"{who} does not hold {done.step_id} with the key {key}"
        return None

    def _use_before(self, done: Done, entry: Entry, who: str) -> str | None:
        first = min(self._uses[str(entry.digest), _use(done.body)], default=done.sequence)
        return f"{who} was carried out before (entry {first}): it counts once for each step" if first < done.sequence else None

    def _needed(self, done: Done) -> int:
        """How many people had to approve the plan, as far as can be told without it."""
        delegation, charter = self._history.delegation(done.sequence), self._history.authority(done.sequence).charter
        if delegation is None or charter is None or delegation.statements == 1:
            return 0
        rules = charter.supply_chain.plans
        return rules.approvals if done.body.plan_approvals or _costs_more(done.body, rules) else 0


def _use(body: Record | Release) -> str:
    return body.step_id if isinstance(body, Record) else f"move {body.environment}"


def _costs_more(body: Record | Release, rules: PlanRules) -> bool:
    """Whether the plan of this alone is above the limit from which approvals are needed."""
    if rules.above_cost is None:
        return True
    if isinstance(body, Release) or body.step is not StepKind.TRAIN:
        return False
    cost = body.estimate.cost if body.estimate is not None else None
    return cost is None or cost > rules.above_cost
