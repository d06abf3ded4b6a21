"""What a report says in sentences of its own: each rule in a reviewer's words, and the notes beside tables."""

from forge.admission.verdict import Rule

RULES = {
    Rule.LEDGER: "The history of what was done is whole: nothing removed, reordered or replayed",
    Rule.SIGNATURE: "Every step is signed by a key of the role that may do it",
    Rule.STATEMENT: "What was signed is what the records say",
    Rule.IDENTITY: "Every record is named after exactly what went into it",
    Rule.COMMIT: "The commit asks for these steps and holds these files",
    Rule.MATERIAL: "Every input was made by a recorded step, or lies in the commit",
    Rule.BYTES: "The stored bytes are what was signed",
    Rule.FORMAT: "The weights hold nothing that runs when it is loaded",
    Rule.GATE: "The evaluations of this very model keep the thresholds",
    Rule.SWEEP: "A search picked the best of its trials",
    Rule.RELEASE: "The release names this model, this policy and this verdict",
    Rule.AUTHORITY: "The root signed the supply chain in force, and it has not expired",
    Rule.LAYOUT: "The steps form a chain that the root's layout allows",
    Rule.THRESHOLD: "As many functionaries made the same of the same as each role asks for",
    Rule.APPROVAL: "Enough people approved, none of whom wrote the change",
    Rule.PREREGISTERED: "The thresholds were set before the figures were known",
    Rule.ORDER: "The release moves forward in Git",
    Rule.TIMESTAMP: "A time-stamping authority saw each signature while its key was valid",
    Rule.WITHDRAWN: "Nothing that it descends from is withdrawn",
}
"""Each rule in a reviewer's words."""
ON_DEVELOPMENT = (
    "The trust root's keys lie on the machine that made them. Whoever uses that machine can sign as anybody: this shows that "
    "the chain is complete, not that somebody independent vouches for it."
)
ON_RULES = "Each rule is checked by the engine over everything that the release rests on. "
ON_INTERVALS = (
    "The interval is the value -/+ 1.96 standard errors, as the evaluation reports them. The threshold is dashed, what it "
    "allows is shaded. A gate compares the value itself; where the threshold lies inside the interval, another sample of items "
    "could decide otherwise."
)
ON_PROVED = " means that a signed attestation of the bundle says so; what a step says of its own machine is its own word. "
ON_DECLARED = " repeats what a person wrote into a spec of the released commit. "
ON_MISSING = " means that nobody said it; nothing is filled in."
ON_TOOLS = "With git, openssl, ssh-keygen, Node.js and in-toto-verify, and no Forge:"
ON_ROOT = (
    "DIGEST is that of your organisation's trust root. Take it from somebody you trust, not from this page. "
    "This report rests on "
)
NOBODY = "nobody whom the supply chain lists"
