"""The figures of a run as series over its tokens, from the events of all its attempts.

An attempt goes on from a checkpoint: what an earlier one measured after that point was thrown away, and is left out here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forge.contract.messages import Event

MFU_FORMULA = (
    "MFU = tokens/s * (6*N + 12*L*H*S) / (peak FLOP/s of an accelerator * how many); PaLM, appendix B; "
    "N: parameters that a token goes through"
)
_NAMES = {
    "loss": "training loss (nats per token)",
    "validation_loss": "validation loss (nats per token)",
    "bits_per_byte": "validation (bits per byte)",
    "replay_validation_loss": "validation on replayed data (nats per token)",
    "replay_bits_per_byte": "validation on replayed data (bits per byte)",
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
    "mfu": "MFU",
    "router_aux_loss": "load-balancing loss",
    "router_entropy": "router entropy (nats)",
    "expert_max_share": "largest share of one expert",
    "dead_experts": "experts without a token",
    "memory_bytes": "memory (bytes)",
}
"""What a plot can show, with its title."""


@dataclass(frozen=True)
class Series:
    """One figure over a run."""

    name: str
    tokens: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def title(self) -> str:
        """For people."""
        return _NAMES[self.name]


def names() -> tuple[str, ...]:
    """What a plot can show."""
    return tuple(_NAMES)


def series_of(attempts: Sequence[Sequence[Event]], peak_flops_per_second: float | None) -> Mapping[str, Series]:
    """Each figure that the attempts report, oldest attempt first; MFU only where the peak is known (forge.toml)."""
    points: dict[str, dict[int, float]] = {name: {} for name in _NAMES}
    for events in attempts:
        begins = next((event.tokens for event in events if event.tokens is not None), None)
        if begins is None:
            continue
        points = {name: {at: value for at, value in known.items() if at <= begins} for name, known in points.items()}
        for event in events:
            if event.tokens is not None:
                for name, value in _figures(event, peak_flops_per_second).items():
                    points[name][event.tokens] = value
    return {
        name: Series(name, tuple(sorted(known)), tuple(known[at] for at in sorted(known)))
        for name, known in points.items()
        if known
    }


def mfu(event: Event, peak_flops_per_second: float | None) -> float | None:
    """Model FLOPs utilisation by ``MFU_FORMULA``; None where the event tells no rate, or no peak is known."""
    rate = event.flops_per_second
    return rate / peak_flops_per_second if rate is not None and peak_flops_per_second else None


def _figures(event: Event, peak: float | None) -> dict[str, float]:
    validates, replays = event.message == "validation", event.message == "validation, replayed data"
    found = {
        "loss": None if validates or replays else event.loss,
        "validation_loss": event.loss if validates else None,
        "bits_per_byte": None if replays else event.bits_per_byte,
        "replay_validation_loss": event.loss if replays else None,
        "replay_bits_per_byte": event.bits_per_byte if replays else None,
        "learning_rate": event.learning_rate,
        "gradient_norm": event.gradient_norm,
        "tokens_per_second": event.tokens_per_second,
        "mfu": mfu(event, peak),
        "router_aux_loss": None if validates or replays else event.router_aux_loss,
        "router_entropy": None if validates or replays else event.router_entropy,
        "expert_max_share": None if validates or replays else event.expert_max_share,
        "dead_experts": None if validates or replays else event.dead_experts,
        "memory_bytes": event.memory_bytes,
    }
    return {name: value for name, value in found.items() if value is not None}
