"""What the serving agent is given: a release that somebody else has verified, down to the bytes of its weights.

Invariant: engine and gateway verify nothing and fetch nothing. Whoever makes a ServableRelease answers for it; in the agent
that is ``forge.serve.pull``, which the watch (``forge.serve.watch``) calls.
"""

from dataclasses import dataclass
from pathlib import Path

from forge.contract.control_tokens import ControlTokens
from forge.spec.deployment import Engine
from forge.spec.inference_policy import InferencePolicySpec


@dataclass(frozen=True)
class ServableRelease:
    """A verified release, ready to be served."""

    environment: str
    deployment: str
    model: str
    """Name of the Model resource: what requests name, and what the engine serves it as."""
    policy_name: str
    policy: InferencePolicySpec
    policy_digest: str
    weights_digest: str
    release_digest: str
    model_path: Path
    """A Hugging Face folder: config, safetensors, tokenizer and chat template."""
    control_tokens: ControlTokens
    """Of the tokenizer beside the weights: no message may spell one."""
    engine: Engine
    trust: str
    """One line: the trust root that the verdict rests on."""

    def needs_engine_like(self, other: "ServableRelease") -> bool:
        """Whether an engine that was started for one of them serves the other as well: then only the policy is another."""
        mine = (self.model, self.weights_digest, self.engine)
        return mine == (other.model, other.weights_digest, other.engine)
