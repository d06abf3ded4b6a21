"""What a verification found: checks that held, findings that did not, and the trust root that all of it rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from forge.errors import printable


class Rule(StrEnum):
    """What is checked; every finding names the rule that it breaks."""

    LEDGER = "ledger"
    """Every object of the ledger has the bytes its name says; entries follow each other without gap or fork."""
    SIGNATURE = "signature"
    """Each attestation is signed by a key that the trust root gives to the role of its step."""
    STATEMENT = "statement"
    """What was signed is what the record says, and the record is about these inputs and products."""
    IDENTITY = "identity"
    """A record's key is the digest of its step, parameters and inputs."""
    COMMIT = "commit"
    """The commit asks for this step with these parameters and holds these very files."""
    MATERIAL = "material"
    """Every input is a product of a recorded step, or lies in the commit. A checkpoint that a training went on from is one
    that the ledger names for a run of which this training is the exact continuation."""
    BYTES = "bytes"
    """The store's files hash to what the manifests say."""
    FORMAT = "format"
    """Weights hold files of formats that run no code when they are loaded, whatever their names say."""
    GATE = "gate"
    """The reports, of this very model, meet the thresholds; evaluated again here."""
    SWEEP = "sweep"
    """What a search picked is the best of its trials, by their reports; picked again here."""
    RELEASE = "release"
    """The release names this model, this policy and this verdict."""
    AUTHORITY = "authority"
    """The root signed the supply chain in force; the commit has that very one, and it has not expired."""
    LAYOUT = "layout"
    """The chain has a shape that the supply chain lists, and a signed link for each of its kinds of step."""
    THRESHOLD = "threshold"
    """As many functionaries have carried out each step, with the same products, as the threshold of its role asks for."""
    APPROVAL = "approval"
    """As many people approved this model for this environment as the supply chain asks for, none of them its author."""
    PREREGISTERED = "pre-registered"
    """The thresholds of the gate stood there before these weights were first measured; none was loosened since."""
    ORDER = "order"
    """An environment's pointer moves forward in Git: to a commit that descends from the one before."""
    TIMESTAMP = "timestamp"
    """Each time stamp is the pinned authority's, about this very signature, and its key was valid at the time that it states;
    none is absent where the supply chain in force asks for them."""
    WITHDRAWN = "withdrawn"
    """Nothing that it descends from is withdrawn: no data, file, evaluation, model, artifact or key."""


REMEDIES: Mapping[Rule, str] = {
    Rule.LEDGER: "fetch the ledger's ref anew from a clone that you trust, and compare the two: somebody wrote it by hand",
    Rule.SIGNATURE: "`forge apply --force STEP` makes and signs it anew; `forge keys show` tells which keys are here",
    Rule.STATEMENT: "restore the ledger from a clone that you trust, or make the step anew: `forge apply --force STEP`",
    Rule.IDENTITY: "`forge apply --force STEP` records the step under its own key; find out who wrote the record that is there",
    Rule.COMMIT: "fetch the commit that is named and apply it; a record of another commit is made anew by `--force STEP`",
    Rule.MATERIAL: "`forge plan` shows which step makes what is missing, and `forge apply` makes it",
    Rule.BYTES: "restore the store's files from a copy, or `forge scrub` and `forge apply`: what is damaged is made again",
    Rule.FORMAT: "export the weights as safetensors, without files that run code, and train or import them anew",
    Rule.GATE: "change the model, its data or the gate in a commit, and apply it",
    Rule.SWEEP: "`forge apply --force sweep/MODEL` picks anew, from the reports of the trials",
    Rule.RELEASE: "`forge apply --force release/DEPLOYMENT` releases anew what the commit asks for",
    Rule.AUTHORITY: "whoever keeps the root's key reviews policies/ and runs `forge keys delegate`; then `forge apply`",
    Rule.LAYOUT: "list the shape in the SupplyChain, `forge keys delegate`, and `forge apply --force release/DEPLOYMENT`",
    Rule.THRESHOLD: "who holds another key of the role runs `forge reproduce STEP`, then `forge apply`; with "
    "`--force release/DEPLOYMENT` where it was released already",
    Rule.APPROVAL: "somebody who may approve it and did not write it runs `forge approve`, then `forge apply`",
    Rule.PREREGISTERED: "keep the thresholds that stood there when these weights were first measured, or train another model",
    Rule.ORDER: "to go back, `git revert` in a commit on top, and apply that",
    Rule.TIMESTAMP: "pin the authority (`forge keys pin-timestamps`), or sign and stamp anew: `forge apply --force STEP`",
    Rule.WITHDRAWN: "make it of something else, or take the entry out of Withdrawals in a later commit, and apply that",
}
"""What to do about a finding; where a finding knows more, its message says it."""


@dataclass(frozen=True)
class Finding:
    """Something that does not hold."""

    rule: Rule
    object: str
    """What is at fault: an artifact, an attestation, a ledger entry, a file."""
    message: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.object}: {self.message}"

    @property
    def remedy(self) -> str:
        """What mends it."""
        return REMEDIES[self.rule]


def told(findings: Sequence[Finding], mark: str = "") -> str:
    """The findings, a line each, and after them what mends them, once for each rule."""
    rules = dict.fromkeys(finding.rule for finding in findings)
    lines = [f"  {mark}{printable(str(finding))}" for finding in findings]
    return "\n".join([*lines, *(f"  remedy [{rule}]: {REMEDIES[rule]}" for rule in rules)])


@dataclass(frozen=True)
class Check:
    """Something that holds."""

    rule: Rule
    message: str


@dataclass(frozen=True)
class WithdrawnSubject:
    """A withdrawal in force, signed, of something that the subject of a verdict descends from."""

    subject: str
    reason: str
    serving: str
    """``stop`` or ``refuse``: what becomes of an agent that serves it."""
    entry: int
    """Its number in the ledger."""
    commit: str

    def __str__(self) -> str:
        return f"{self.subject} is withdrawn ({self.reason}; entry {self.entry}, commit {self.commit[:12]})"


@dataclass(frozen=True)
class Verdict:
    """The answer about one subject."""

    subject: str
    trust: str
    """One line: which trust root this rests on."""
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    release: str | None = None
    """Digest of the release artifact, when the subject is released."""
    withdrawn: tuple[WithdrawnSubject, ...] = ()
    """What of it is withdrawn; each is a finding as well."""

    @property
    def holds(self) -> bool:
        """Whether nothing is at fault."""
        return not self.findings
