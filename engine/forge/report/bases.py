"""What a report says of the weights that a training began with: who made them, from what, and at which expense.

A base is a product of another training of the chain, or files of the commit. Of the latter nothing is proved but their bytes:
origin and licence are declared, and what they were trained on is not part of this chain.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from forge.contract.kinds import StepKind
from forge.contract.record import Record
from forge.report.facts import Facts, shown
from forge.spec.base import FolderBase
from forge.spec.base_folder import CONFIG_FILE
from forge.spec.model import BasedSpec, ContinueSpec, Replay
from forge.spec.resource import Model
from forge.spec.tuning import CommittedChats, DpoSpec, TunedSpec, chats_of

BASE = "base"
"""The input of a train step that it begins with."""
_SHOWN = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "rope_theta",
    "tie_word_embeddings",
    "num_local_experts",
    "num_experts_per_tok",
)
"""What a config.json says of an architecture."""


def bases(facts: Facts, record: Record) -> Iterator[Record]:
    """The trainings that a training's weights go back to, the nearest first; those of the chain alone."""
    seen = {record.key}
    while BASE in record.inputs:
        made = [each for each in facts.records(StepKind.TRAIN) if each.products.get("weights") == record.inputs[BASE]]
        if not made or made[0].key in seen:
            return
        record = made[0]
        seen.add(record.key)
        yield record


def folder_of(facts: Facts, record: Record) -> FolderBase | None:
    """The folder that a training's chain of bases begins with, as the released commit declares it."""
    *_, root = (record, *bases(facts, record))
    model = facts.resource(root.subject)
    spec = model.spec if isinstance(model, Model) else None
    return spec.base if isinstance(spec, BasedSpec) and isinstance(spec.base, FolderBase) else None


def base_text(facts: Facts, record: Record) -> str | None:
    """What a training began with, in words; None for random weights."""
    if BASE not in record.inputs:
        return None
    digest = record.inputs[BASE]
    made = next(bases(facts, record), None)
    if made is not None:
        return f"the weights of {made.subject} ({digest})"
    paths = sorted(record.sources.get(BASE, {}).values())
    return f"{', '.join(paths) or 'files'} of the commit ({digest})"


def chats_behind(facts: Facts, record: Record) -> Iterator[tuple[str, CommittedChats]]:
    """Field and content of what a training, and those that it goes back to, learnt to answer from, by the released commit."""
    for each in (record, *bases(facts, record)):
        model = facts.resource(each.subject)
        if isinstance(model, Model) and isinstance(model.spec, TunedSpec):
            yield chats_of(model.spec)


def adapted_text(facts: Facts, record: Record, base: str) -> str:
    """What was done to a base, in words."""
    parameters, metrics = record.parameters, record.metrics
    objective = parameters.get("objective")
    if objective not in ("sft", "dpo"):
        text = f"continued pretraining of {base} on {shown(metrics.get('tokens'))} tokens"
        replayed = replay_text(facts, record)
        return f"{text}, of which {replayed}" if replayed else text
    lora = parameters.get("adapter", {}).get("lora", {})
    how = f"LoRA of rank {lora.get('rank')}" if lora else "all weights"
    answers = f"{shown(metrics.get('answer_tokens'))} tokens of answers, repeats counted"
    if objective == "sft":
        count = f"{shown(metrics.get('conversations'))} conversations of {_paths(record, 'conversations')}"
        return f"supervised fine-tuning ({how}) of {base} on {count}, {answers}"
    defaults = DpoSpec.model_fields
    beta, loss = (parameters.get(name, defaults[name].default) for name in ("beta", "loss_type"))
    count = f"{shown(metrics.get('pairs'))} pairs of answers of {_paths(record, 'preferences')}"
    return f"direct preference optimisation ({how}; beta {beta}, loss {loss}) of {base} on {count}, {answers}"


def _paths(record: Record, name: str) -> str:
    return ", ".join(sorted(record.sources.get(name, {}).values())) or "files of the commit"


def replay_text(facts: Facts, record: Record) -> str | None:
    """What was mixed in against forgetting; None where nothing was."""
    replay = replay_of(facts, record)
    fraction = record.parameters.get("replay", {}).get("fraction")
    if "replay" not in record.inputs or fraction is None:
        return None
    of = f" of {replay.data}" if replay is not None else ""
    return f"{shown(record.metrics.get('replay_tokens'))} tokens{of}, {fraction} of the sequences"


def replay_of(facts: Facts, record: Record) -> Replay | None:
    """The released commit's own words on it."""
    model = facts.resource(record.subject)
    return model.spec.replay if isinstance(model, Model) and isinstance(model.spec, ContinueSpec) else None


def architecture_of(facts: Facts, record: Record | None) -> Mapping[str, Any] | None:
    """A model's architecture: a parameter of its training, or what its weights' config.json says where a base lent it."""
    if record is None:
        return None
    found: Mapping[str, Any] | None = record.parameters.get("architecture")
    if found is not None or BASE not in record.inputs:
        return found
    config = facts.document(record, "weights", CONFIG_FILE)
    return None if config is None else {name: config[name] for name in _SHOWN if name in config}


def parameters_text(record: Record) -> Any:
    """How many parameters a model has, and of a mixture of experts how many a token goes through."""
    total, active = record.metrics.get("parameters"), record.metrics.get("active_parameters")
    return total if active is None else f"{shown(total)}, of which a token goes through {shown(active)}"


def whole_flops(facts: Facts, record: Record) -> tuple[float | None, bool]:
    """Operations of a model as a whole, and whether it has a base; None where those of its base cannot be told."""
    chain = (record, *bases(facts, record))
    found = [each.metrics.get("flops") for each in chain if facts.holds(each)]
    known = [float(flops) for flops in found if isinstance(flops, int | float)]
    if len(known) < len(chain) or BASE in chain[-1].inputs:
        return None, BASE in record.inputs
    return sum(known), BASE in record.inputs
