"""What a step will take: FLOPs from the model's shape, time and money from the prices of forge.toml.

None means "cannot tell": a step that never ran and whose work no formula gives has no estimate.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forge.plan.compute import flops_per_token, num_active_parameters, num_parameters, reference_flops_per_token

if TYPE_CHECKING:  # most plans estimate nothing
    from forge.contract.record import Record, Spent
    from forge.spec.architecture import Architecture
    from forge.spec.model import BasedSpec, PretrainSpec
    from forge.spec.settings import Settings


@dataclass(frozen=True)
class Estimate:
    """Expected effort of one step."""

    seconds: float | None = None
    cost: float | None = None
    """In the currency of forge.toml."""
    parameters: int | None = None
    active_parameters: int | None = None
    """Those that a token goes through; None where it goes through all."""
    tokens: int | None = None
    flops: float | None = None


NO_ESTIMATE = Estimate()
"""Nothing is known."""


def estimate_training(
    spec: "PretrainSpec | BasedSpec",
    architecture: "Architecture",
    vocab_size: int,
    settings: "Settings",
    tokens: int | None = None,
) -> Estimate:
    """Time and cost of a train step; both None where forge.toml does not describe the accelerator.

    ``tokens``: where they are not the spec's. Of dpo, the most that it can be: the reference reads each pair once, however
    often the training does, and only the step knows how many there are.
    """
    training = spec.training
    steps = -(-(tokens or training.tokens) // training.batch_tokens)
    tokens = steps * training.batch_tokens
    shape = (architecture, vocab_size, training.sequence_length)
    flops = tokens * flops_per_token(*shape)
    if spec.objective == "dpo":
        flops += tokens * reference_flops_per_token(*shape)
    parameters = num_parameters(architecture, vocab_size)
    active = None if architecture.experts is None else num_active_parameters(architecture, vocab_size)
    accelerator = settings.accelerators.get(spec.resources.accelerator)
    if accelerator is None:
        return Estimate(parameters=parameters, active_parameters=active, tokens=tokens, flops=flops)
    seconds = flops / (accelerator.flops_per_second * spec.resources.count)
    cost = price(seconds, spec.resources.count, spec.resources.accelerator, settings)
    return Estimate(seconds, cost, parameters, active, tokens, flops)


def estimate_from_history(latest: "Record | None") -> Estimate:
    """What the step took when it last ran under this id; nothing known gives an empty estimate."""
    if latest is None:
        return NO_ESTIMATE
    return Estimate(latest.actual.seconds, latest.actual.cost)


def price(seconds: float, count: int, accelerator: str, settings: "Settings") -> float | None:
    """Money for time on accelerators; None where forge.toml names no price."""
    entry = settings.accelerators.get(accelerator)
    return None if entry is None else seconds / 3600 * count * entry.price_per_hour


def spent(estimate: Estimate) -> "Spent | None":
    """The estimate as a record keeps it, beside the actual figures."""
    from forge.contract.record import Spent

    return None if estimate.seconds is None else Spent(seconds=estimate.seconds, cost=estimate.cost)
