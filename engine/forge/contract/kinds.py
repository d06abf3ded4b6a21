"""Step kinds: their version, the products they make and whose key signs what they did; and all roles that sign.

Invariant: whoever changes the bytes that a step produces raises its version here; tests/steps/test_golden.py holds a
digest per version and fails when only one of the two moved. Exempt is the mending of a reader that lost text of some files
(docs/decisions.md, "readers that lost text"): it changes what is made of those files alone.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from forge.contract.checkpoints import BRANCH_POINT, BYPRODUCT
from forge.contract.hyperparameters import HYPERPARAMETERS
from forge.contract.inventory import BYPRODUCT as INVENTORY
from forge.contract.survey import BYPRODUCT as SURVEY


class StepKind(StrEnum):
    """The kinds of work that specs compile to."""

    CURATE = "curate"
    """Sources -> cleaned, de-duplicated, redacted documents, split into train and validation."""
    TOKENIZER = "tokenizer"
    """Training documents -> tokenizer.json."""
    TOKENIZE = "tokenize"
    """Documents and a tokenizer -> packed token files (.ds)."""
    TRAIN = "train"
    """Token files -> weights in Hugging Face format."""
    SWEEP = "sweep"
    """Reports of trials -> values of the fields that are searched: those of a further trial, or of the best one."""
    EVALUATE = "evaluate"
    """Weights and task files -> a report of metrics."""
    GATE = "gate"
    """Reports and thresholds -> a verdict, GO or NO-GO."""
    RELEASE = "release"
    """Weights, verdict and policy -> the document that an environment's pointer names."""


class Role(StrEnum):
    """Who answers for what: each role signs with its own key."""

    DATA_STEWARD = "data-steward"
    """Answers for what went into the training documents."""
    TRAINER = "trainer"
    """Answers for tokenizers, token files and weights, and for what a search chose."""
    EVALUATOR = "evaluator"
    """Answers for reports and verdicts."""
    RELEASER = "releaser"
    """Answers for what an environment may serve."""
    ROOT = "root"
    """Says who may do what: signs the charter, the layouts and the next root, and no step."""
    AGENT = "agent"
    """Answers for what it says that it serves: signs no step, only the status of a serving agent."""


@dataclass(frozen=True)
class StepDefinition:
    """What the engine knows of a step kind without importing its code."""

    version: int
    products: tuple[str, ...]
    role: Role
    by_reference: frozenset[str] = field(default_factory=frozenset)
    """Inputs of which the step needs only the digest: their bytes are not laid out for it."""
    byproducts: tuple[str, ...] = ()
    """What the step may leave beside its products: kept and named in its record, never an input of a key, and allowed to
    differ between two runs of one key."""
    numbered: re.Pattern[str] | None = None
    """Names of further by-products, as many as the step is asked for."""

    def leaves(self, name: str) -> bool:
        """Whether a by-product of this name may be left."""
        return name in self.byproducts or (self.numbered is not None and self.numbered.fullmatch(name) is not None)


STEPS: dict[StepKind, StepDefinition] = {
    StepKind.CURATE: StepDefinition(1, ("documents", "report"), Role.DATA_STEWARD, byproducts=(SURVEY, INVENTORY)),
    StepKind.TOKENIZER: StepDefinition(1, ("tokenizer",), Role.TRAINER),
    StepKind.TOKENIZE: StepDefinition(1, ("tokens",), Role.TRAINER),
    StepKind.TRAIN: StepDefinition(2, ("weights",), Role.TRAINER, byproducts=(BYPRODUCT,), numbered=BRANCH_POINT),
    StepKind.SWEEP: StepDefinition(1, (HYPERPARAMETERS,), Role.TRAINER),
    StepKind.EVALUATE: StepDefinition(1, ("report",), Role.EVALUATOR),
    StepKind.GATE: StepDefinition(1, ("verdict",), Role.EVALUATOR),
    StepKind.RELEASE: StepDefinition(1, ("release",), Role.RELEASER, frozenset({"weights"})),
}
