"""Why an action is in a plan: an enum with a paragraph for each member, and the value that names what it is about."""

from dataclasses import dataclass
from enum import StrEnum

from forge.errors import printable
from forge.spec.meaning import Meaning


class ReasonKind(StrEnum):
    """Why an action is in the plan; a program may rely on these words."""

    CREATED = "created"
    """Nothing is recorded under the step's id, or the resource's earlier name: the spec is new."""
    FIELD_CHANGED = "field changed"
    """A field of the spec that shapes the products has another value than in the newest record of the step."""
    GATE_CHANGED = "gate changed"
    """A threshold or suite of the gate has another value: the verdict is asked for again, over the reports there are."""
    INPUT_CHANGED = "input changed"
    """An input has another digest than in the newest record: other bytes in the commit, or an upstream step made others."""
    VERSION_CHANGED = "step version raised"
    """This engine makes other bytes of the same inputs and parameters."""
    ARTIFACT_MISSING = "artifact missing"
    """The step is recorded, but the store has lost a product. It is made again under the same key."""
    ARTIFACT_CORRUPT = "artifact corrupt"
    """A read, a verification or a scrub found that a product's bytes are not what its name says, and noted it."""
    FORCED = "forced"
    """Someone asked for this step by name; the record that it replaces stays in the ledger."""
    UPSTREAM = "decided after"
    """An input is being made; whether this step runs is known afterwards, and it may turn out that it need not."""
    IN_FLIGHT = "in flight"
    """A lease says that a runner works at this very key: its result is awaited, nothing is started twice."""
    SUPERSEDES = "supersedes a run in flight"
    """A run under the step's earlier key is going on. It is asked to stop and to keep its checkpoint: the commit no
    longer asks for what it would make."""
    AWAITS_RUN = "awaits a run in flight"
    """A run under another key of the step is going on, for a commit that this one does not descend from (it was amended, or is
    of another branch). Whoever works at it stops it when it takes up this commit itself, as a controller does; anyone else
    awaits its end."""
    CONTINUES = "continues"
    """A checkpoint of an earlier run is on the way of this one: the run goes on from there, to the same last digit."""
    FROM_SCRATCH = "not continued"
    """The budget of tokens changed, and why the earlier run cannot be continued."""
    RELEASED_BEFORE = "released before"
    """The environment served this very release earlier: the pointer moves back, nothing is made."""
    POINTER = "release pointer"
    """The environment serves another release, or nothing yet."""
    DRIFTED = "drifted"
    """This commit's release was in place, for it or for an earlier commit, and the pointer was moved by something that is not
    the commit: for a commit that this one does not descend from, or back to one that others had followed."""
    MOVED_BY = "moved for"
    """Beside a drift: the commit in whose name the pointer was moved last, and when."""
    MADE_ELSEWHERE = "made under another name"
    """The products exist: another step, or this resource under its previous name, made them with the same identity."""
    GATE = "gate says NO-GO"
    """A threshold is not met; nothing is released until the inputs or the gate change."""
    APPROVAL = "needs approval"
    """The supply chain asks for approvals before the environment serves this model; `forge approve release/ENV` gives one."""
    REPRODUCTION = "needs reproduction"
    """A role of the supply chain has a threshold, and fewer functionaries have carried out a step behind the release;
    `forge reproduce STEP`, with another key of the role, adds one."""
    WAITS = "waits for"
    """An input comes from a step that is blocked."""
    SUSPENDED = "suspended"
    """The annotation forge/suspend holds this resource as it is."""
    WITHDRAWN = "withdrawn"
    """The step descends from something that policies/withdrawn.yaml withdraws, or the ledger is to note a withdrawal.
    ``old`` is the nearest thing that leads there, where that is not the subject itself; ``new`` says why it is withdrawn."""
    LIFTED = "withdrawal lifted"
    """The ledger keeps a withdrawal that the commit no longer asks for."""
    RENAMED = "renamed from"
    """The commit says what the resource was called before (`previous_name`), and the ledger does not know it yet."""
    REMOVED = "removed from the commit"
    """The ledger knows the resource and the commit no longer holds it."""
    UNSERVED = "served by no deployment"
    """The pointer of an environment stands, and no deployment of the commit serves it: the one that did moved to another."""
    PROTECTED = "protected"
    """The ledger notes `protect: true`, which outlives the file: only a commit that says `protect: false` lifts it."""
    PROTECTION_CHANGED = "protection changed"
    """`metadata.protect` is not what the ledger notes."""
    IN_SYNC = "in sync"
    """The record and its artifacts are there; nothing to do."""


@dataclass(frozen=True)
class Reason:
    """One reason. Everything beside the kind is for people; identities never depend on it."""

    kind: ReasonKind
    subject: str = ""
    """The path of a field, the name of an input or product, step ids, an environment."""
    old: str | None = None
    new: str | None = None
    meaning: Meaning | None = None
    """Of a field: what its declaration says a change means."""
    commit: str | None = None
    """The commit that the old value belongs to, or that brought the change, as far as it is known."""

    def __str__(self) -> str:
        text = str(self.kind)
        if self.kind is ReasonKind.WITHDRAWN:
            through = f" (by {printable(self.old)})" if self.old else ""
            return f"{text}: {_short(self.subject)}{through}: {printable(self.new or '')}"
        if self.subject:
            separator = " " if self.kind in _SPACED else ": "
            text += separator + printable(_few(self.subject) if self.kind in _STEPS else self.subject)
        if self.kind not in _DIGESTS_UNSHOWN and (self.old is not None or self.new is not None):
            text += ": {} -> {}".format(*shortened(self.old, self.new))
        if self.meaning is not None:
            text += f" ({self.meaning})"
        return text


_DIGESTS_UNSHOWN = frozenset({ReasonKind.INPUT_CHANGED, ReasonKind.ARTIFACT_MISSING, ReasonKind.ARTIFACT_CORRUPT})
_SPACED = (ReasonKind.UPSTREAM, ReasonKind.WAITS, ReasonKind.RENAMED, ReasonKind.MOVED_BY)
_STEPS = (ReasonKind.UPSTREAM, ReasonKind.WAITS)
_SHORT_DIGEST, _MOST_STEPS = 19, 4


def _few(steps: str) -> str:
    """Steps for people: of many the last one, which a search's choice waits for longest, and how many others there are."""
    names = steps.split(", ")
    return steps if len(names) <= _MOST_STEPS else f"{names[-1]} and {len(names) - 1} others"


def shortened(old: str | None, new: str | None) -> tuple[str, str]:
    """Two values for people: digests by their beginning, unless both begin alike."""
    texts = _short(old), _short(new)
    return texts if texts[0] != texts[1] or old == new else (printable(old or "nothing"), printable(new or "nothing"))


def _short(value: str | None) -> str:
    text = printable(value) if value is not None else "nothing"
    return text[:_SHORT_DIGEST] if text.startswith("sha256:") else text
