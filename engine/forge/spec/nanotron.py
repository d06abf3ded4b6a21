"""What nanotron 0.4 can train, and how it spreads a copy of a model over processes (docs/nanotron.md).

Invariant: what is not known to be honoured is refused, so a field that comes later is not passed over in silence.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from forge.spec.fields import Part
from forge.spec.meaning import NONE

if TYPE_CHECKING:
    from forge.spec.architecture import Architecture
    from forge.spec.training import Training

NANOTRON_ROPE_THETA = 10000.0
_NANOTRON_HAS = frozenset(
    {
        "family",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "max_position_embeddings",
        "rope_theta",
        "rms_norm_eps",
        "initializer_range",
        "tie_word_embeddings",
        "tokens",
        "sequence_length",
        "batch_tokens",
        "micro_batch_sequences",
        "optimizer",
        "schedule",
        "precision",
        "seed",
        "validate_every_tokens",
        "checkpoint_every_tokens",
        "max_loss_rise",
        "name",
        "lr",
        "betas",
        "eps",
        "weight_decay",
        "gradient_clip_norm",
    }
)
"""Fields of an architecture, a training and an optimiser that the nanotron backend honours. Any other that is set is refused:
one that comes later is not passed over in silence."""


class NanotronLayout(Part):
    """How nanotron spreads one copy of a model over processes; the copies share the rest of ``resources.count``."""

    tensor_parallel: Annotated[int, Field(ge=1), NONE] = 1
    """Processes that share each matrix (Shoeybi et al. 2019)."""
    pipeline_parallel: Annotated[int, Field(ge=1), NONE] = 1
    """Stages that the layers are dealt out to (Narayanan et al. 2021)."""

    @property
    def processes(self) -> int:
        """Of one copy of the model."""
        return self.tensor_parallel * self.pipeline_parallel


def why_not_nanotron(architecture: "Architecture", training: "Training", layout: NanotronLayout, processes: int) -> str | None:  # noqa: PLR0911 (one per reason)
    """Why nanotron 0.4 cannot train this over so many processes; None where it can."""
    tensor, pipeline = layout.tensor_parallel, layout.pipeline_parallel
    for part in (architecture, training, training.optimizer):
        for name, info in type(part).model_fields.items():
            if name not in _NANOTRON_HAS and getattr(part, name) != info.get_default(call_default_factory=True):
                return f"`backend: nanotron` does not have {name}: leave it out, or train with the torch backend"
    if architecture.family != "llama":
        return f"`backend: nanotron` trains the family llama, not {architecture.family}"
    if architecture.rope_theta != NANOTRON_ROPE_THETA:
        return f"nanotron 0.4 has a rope_theta of {NANOTRON_ROPE_THETA:.0f} only, not {architecture.rope_theta:g}"
    if processes % layout.processes:
        return (
            f"resources.count is {processes}, no multiple of nanotron.tensor_parallel * nanotron.pipeline_parallel "
            f"= {layout.processes}, the processes of one copy of the model"
        )
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(architecture, name) % tensor:
            return f"architecture.{name} is {getattr(architecture, name)}, no multiple of nanotron.tensor_parallel = {tensor}"
    if architecture.num_hidden_layers < pipeline:
        return f"nanotron.pipeline_parallel is {pipeline}, more stages than the model has layers"
    sequences, copies = training.batch_tokens // training.sequence_length, processes // layout.processes
    micro = min(training.micro_batch_sequences, max(1, sequences // copies))
    if sequences % (copies * micro):
        return (
            f"a batch of {sequences} sequences cannot be dealt out to {copies} copies of the model in micro-batches of "
            f"{micro}; change batch_tokens, micro_batch_sequences or resources.count"
        )
    return None
