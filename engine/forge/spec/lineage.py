"""Models that continue each other, or branch from each other: where each chain of bases begins. Pure; names in, names out.

Invariant: a chain ends. A model that leads back to itself, at once or by way of others, has no beginning, so it is refused;
whatever a continued model has of its base (architecture, tokenizer, positions) is that of the chain's first model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forge.spec.compiled import Compiled, read_facts, read_json

Row = tuple[int, tuple[str | int, ...], str, int | None]
"""As ``governed.Row``."""


@dataclass(frozen=True)
class Lineages:
    """Every model's beginning."""

    roots: Mapping[str, str]
    """Model -> the model that its chain of bases begins with; itself where it continues none. Those without one are absent."""
    circles: tuple[tuple[str, ...], ...]
    """Models that continue each other, each followed by its base."""


def lineages(bases: Mapping[str, str | None]) -> Lineages:
    """Follow each model's base; every model is visited once. ``bases``: model -> its base, None where it continues none."""
    roots: dict[str, str] = {}
    settled: set[str] = set()
    circles: list[tuple[str, ...]] = []
    for start in bases:
        path: dict[str, None] = {}
        at: str | None = start
        while at is not None and at in bases and at not in settled and at not in path:
            path[at] = None
            at = bases[at]
        names = list(path)
        if at is not None and at in path:
            circles.append(tuple(names[names.index(at) :]))
        elif at is None:
            roots.update(dict.fromkeys(names, names[-1]))
        elif at in roots:
            roots.update(dict.fromkeys(names, roots[at]))
        settled.update(names)
    return Lineages(roots, tuple(circles))


def continued(compiled: Sequence[Compiled], by_address: Mapping[str, int]) -> Iterator[Row]:
    """Every fault between a model and what it continues."""
    facts = {
        item.address: read_facts(item.facts)
        for index, item in enumerate(compiled)
        if item.kind == "Model" and by_address[item.address] == index
    }
    found = lineages({address: fact.get("base") for address, fact in facts.items()})
    for circle in lineages({address: fact.get("base") or _left_by(fact) for address, fact in facts.items()}).circles:
        for number, address in enumerate(circle):
            others = [*circle[number + 1 :], *circle[:number], address]
            message = (
                f"{address} continues itself"
                if len(circle) == 1
                else f"{address} continues {', which continues '.join(others)}"
            )
            remedy = ": a chain of bases begins with a model whose objective is pretrain, or with a folder"
            field = "base" if "base" in facts[address] else "from"
            yield by_address[address], ("spec", field, "model"), message + remedy, None
    for address, fact in facts.items():
        root = found.roots.get(address)
        limit = facts[root]["positions"] if root is not None else None
        if root != address and limit is not None and fact["sequence_length"] > limit:
            message = (
                f"`sequence_length` is {fact['sequence_length']}, but {root} has {limit} positions (max_position_embeddings)"
            )
            yield by_address[address], ("spec", "training", "sequence_length"), message, None
        experts = facts[root].get("experts") if root is not None else None
        if not experts or "tunes" not in fact:
            continue
        from forge.spec.tuning import why_not_tuned  # a plan of what is cached loads no model

        reason = why_not_tuned(fact["tunes"])
        if reason:
            place = ("spec", "base", "model") if fact["tunes"] is None else ("spec", "adapter", "lora", "targets")
            yield by_address[address], place, f"{root} is a mixture of {experts} experts; {reason}", None


def branched(compiled: Sequence[Compiled], by_address: Mapping[str, int]) -> Iterator[Row]:
    """Every fault between a branch and the training that it leaves: up to there they are one."""
    for index, item in enumerate(compiled):
        facts = read_facts(item.facts) if item.kind == "Model" and by_address[item.address] == index else {}
        other = _left_by(facts)
        if other is not None and other in by_address and other != item.address:
            for place, message in _unlike(item, compiled[by_address[other]], facts["branches"][1]):
                yield index, ("spec", *place), message, None


def _left_by(facts: Mapping[str, Any]) -> str | None:
    """The model that one branches from."""
    point: tuple[str, int] | None = facts.get("branches")
    return None if point is None else point[0]


def _unlike(branch: Compiled, other: Compiled, step: int) -> Iterator[tuple[tuple[str, ...], str]]:
    from forge.spec.extend import differences  # a plan of what is cached loads no model, where nothing branches

    own, theirs = read_json(branch.parameters), read_json(other.parameters)
    if theirs.get("objective") != "pretrain":
        yield ("from", "model"), f"{other.address} is no training from random weights: only such a one is branched from"
        return
    total = -(-theirs["training"]["tokens"] // theirs["training"]["batch_tokens"])
    if step > total:
        yield ("from", "step"), f"`step` is {step}, but the training of {other.address} has {total} steps"
    for path in sorted({*differences(_shared(theirs, other), _shared(own, branch))}):
        message = (
            f"`{path}` is not that of {other.address}, which it branches from: a branch differs from it in training.tokens, "
            "training.optimizer and training.schedule alone; on other data, `objective: continue` trains its weights"
        )
        yield tuple(path.split(".")), message


def _shared(parameters: Mapping[str, Any], model: Compiled) -> dict[str, Any]:
    """What a branch has in common with the training that it leaves; of what is mixed in, the fractions and then the names."""
    own = ("tokens", "optimizer", "schedule")
    training = {name: value for name, value in parameters["training"].items() if name not in own}
    named = {name: value for name, value in read_facts(model.facts).items() if name in ("data", "tokenizer")}
    mixture = [parameters.get("mixture"), read_facts(model.facts).get("mixture")]
    rest = {name: value for name, value in parameters.items() if name != "from"}
    return {**rest, **named, "training": training, "mixture": mixture}


def positions_of(address: str, compiled: Sequence[Compiled], by_address: Mapping[str, int]) -> int | None:
    """The positions (max_position_embeddings) that a model has, its own or its base's; None where no spec says it."""
    seen: set[str] = set()
    at: str | None = address
    while at is not None and at in by_address and at not in seen:
        seen.add(at)
        facts: dict[str, Any] = read_facts(compiled[by_address[at]].facts)
        if facts.get("base") is None:
            found: int | None = facts["positions"]
            return found
        at = facts["base"]
    return None
