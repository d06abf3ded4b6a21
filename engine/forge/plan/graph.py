"""Resources -> the graph of steps that makes them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forge.canonical import canonical_json
from forge.contract.kinds import StepKind
from forge.plan.desired import Bundle, Desired
from forge.plan.step import FromCommit, FromStep, Input, Step
from forge.spec.compiled import Compiled, read_facts, read_json


@dataclass(frozen=True, slots=True)
class _Parts:
    """What steps are made of."""

    resources: dict[str, Compiled]
    bundles: dict[tuple[str, str], Bundle]
    roots: dict[str, Compiled]
    """Model -> the model that its chain of bases begins with; filled as models come, each after its base."""
    branches: dict[str, list[int]]
    """Model -> the steps at which others leave its training."""
    trained: dict[str, str]
    """Model that others branch from -> the parameters of its training; filled as models come."""


def build_graph(desired: Desired) -> dict[str, Step]:
    """All steps by id, each after those it reads from."""
    resources = dict(desired.compiled)
    parts = _Parts(resources, dict(desired.bundles), {}, _branch_points(resources), {})
    steps: dict[str, Step] = {}
    for resource in parts.resources.values():
        steps_of = _STEPS_OF.get(resource.kind)
        for step in steps_of(resource, parts) if steps_of else ():
            known = steps.get(step.id)
            if known is None or (known.suspended and not step.suspended):
                steps[step.id] = step
    return steps


def _branch_points(resources: Mapping[str, Compiled]) -> dict[str, list[int]]:
    """Where trainings are left. A branch of a branch may leave the trunk of both, so each of those is told."""
    found: dict[str, set[int]] = {}
    for model in resources.values():
        if '"branches"' not in model.facts:
            continue
        step = None
        for other, at in _left_by(model, resources):
            step = at if step is None else min(step, at)
            found.setdefault(other, set()).add(step)
    return {address: sorted(steps) for address, steps in found.items()}


def _left_by(model: Compiled, resources: Mapping[str, Compiled]) -> Iterator[tuple[str, int]]:
    """The models whose training a model's leaves, the nearest first, each with the step; the commit is valid, so they end."""
    point = read_facts(model.facts).get("branches")
    while point is not None:
        yield point[0], point[1]
        point = read_facts(resources[point[0]].facts).get("branches")


def _curate(recipe: Compiled, parts: _Parts) -> Iterable[Step]:
    inputs = _suites(recipe, parts)
    facts = read_facts(recipe.facts)
    for index, path in enumerate(facts["sources"]):
        name = f"source-{index}"
        if path is not None:  # else its digests are parameters, and the step fetches it
            inputs[name] = FromCommit(recipe.address, parts.bundles[recipe.address, name])
    reads = _suites_of(recipe, parts)
    return (_own_step(StepKind.CURATE, recipe, recipe.parameters, inputs, reads, json_settings=recipe.settings),)


def _suites(reader: Compiled, parts: _Parts) -> dict[str, Input]:
    """The suites that something is cleaned of, as its own input: layouts let a step read nobody else's files."""
    suites = enumerate(_suites_of(reader, parts))
    return {f"suite-{index}": FromCommit(reader.address, parts.bundles[suite.address, "tasks"]) for index, suite in suites}


def _suites_of(reader: Compiled, parts: _Parts) -> list[Compiled]:
    return [parts.resources[suite] for suite in read_facts(reader.facts).get("suites", ())]


def _paused(*resources: Compiled) -> str | None:
    return next((resource.address for resource in resources if resource.is_suspended), None)


def _tokenizer(tokenizer: Compiled, _parts: _Parts) -> Iterable[Step]:
    (data,) = tokenizer.references
    documents = FromStep(f"curate/{_name(data)}", "documents")
    return (_own_step(StepKind.TOKENIZER, tokenizer, tokenizer.parameters, {"documents": documents}),)


def _own_step(
    kind: StepKind,
    resource: Compiled,
    parameters: str,
    inputs: Mapping[str, Input],
    reads: Iterable[Compiled] = (),
    **more: Any,
) -> Step:
    """A step that is named after the one resource that asks for it; ``reads``: those whose files are its inputs."""
    name = resource.name
    previous = () if resource.previous is None else (f"{kind}/{_name(resource.previous)}",)
    return Step(
        f"{kind}/{name}",
        kind,
        name,
        resource.address,
        parameters,
        inputs,
        previous_ids=previous,
        suspended=_paused(resource, *reads),
        **more,
    )


def _model(model: Compiled, parts: _Parts) -> Iterable[Step]:
    facts = read_facts(model.facts)
    base, replay = facts.get("base"), facts.get("replay")
    root = model if base is None else parts.roots[base]
    parts.roots[model.address] = root
    inputs: dict[str, Input]
    if "chats" in facts:  # the step reads them itself: what is learnt of them depends on the model's own template
        chats = parts.bundles[model.address, facts["chats"]]
        inputs = {facts["chats"]: FromCommit(model.address, chats), "tokenizer": _pieces(root, parts)}
        inputs |= _suites(model, parts)
    else:
        tokenize = _tokenize(model, facts["data"], root, parts)
        inputs = {"tokens": FromStep(tokenize.id, "tokens"), "tokenizer": tokenize.inputs["tokenizer"]}
        yield tokenize
    if base is not None:
        inputs["base"] = FromStep(f"train/{_name(base)}", "weights")
    elif "folder" in facts:
        inputs["base"] = FromCommit(model.address, parts.bundles[model.address, "base"])
    if replay is not None:
        tokenize = _tokenize(model, replay, root, parts)
        inputs["replay"] = FromStep(tokenize.id, "tokens")
        yield tokenize
    for index, data in enumerate(facts.get("mixture", ())):
        tokenize = _tokenize(model, data, root, parts)
        inputs[f"mixture-{index}"] = FromStep(tokenize.id, "tokens")
        yield tokenize
    train = _own_step(
        StepKind.TRAIN,
        model,
        _trained(model, parts),
        inputs,
        _suites_of(model, parts),
        json_settings=_with_branches(model, parts),
        processes=facts["processes"],
        accelerator=facts["accelerator"],
        after=tuple(f"train/{_name(other)}" for other, _ in _left_by(model, parts.resources)),
    )
    if "sweep" in facts:
        yield from _searched(model, train, parts)
    else:
        yield train


def _searched(model: Compiled, train: Step, parts: _Parts) -> Iterable[Step]:
    """The trainings of a model that names a sweep, and what chooses between them."""
    from forge.plan.trials import Search  # most commits search nothing, and plan without the models of specs

    sweep = parts.resources[read_facts(model.facts)["sweep"]]
    suite = parts.resources[read_facts(sweep.facts)["suite"]]
    tasks = FromCommit(suite.address, parts.bundles[suite.address, "tasks"])
    former = () if model.previous is None else (_name(model.previous),)
    held = _paused(sweep, suite) or train.suspended
    return Search(model, sweep, suite, tasks, held, former).steps(train)


def _trained(model: Compiled, parts: _Parts) -> str:
    """The parameters of a model's training: of a branch with the way that it shares, in the place of the model's name."""
    found, point = model.parameters, read_facts(model.facts).get("branches")
    if point is not None:
        from forge.spec.extend import with_trunk  # most commits branch nothing, and plan without the models of specs

        trunk = with_trunk(read_json(model.parameters), read_json(parts.trained[point[0]]))
        found = canonical_json(trunk).decode()
    if model.address in parts.branches:
        parts.trained[model.address] = found
    return found


def _with_branches(model: Compiled, parts: _Parts) -> str:
    """A training's settings, with the steps at which it keeps a checkpoint for others."""
    steps = parts.branches.get(model.address)
    return model.settings if steps is None else json.dumps({**json.loads(model.settings), "branches": steps})


def _tokenize(model: Compiled, data: str, root: Compiled, parts: _Parts) -> Step:
    """The tokens of a recipe as a model reads them, with the tokenizer that its chain of bases began with."""
    recipe, address = parts.resources[data], read_facts(root.facts).get("tokenizer")
    if address is None:  # it lies in the folder; three parts, for a tokenizer may be called as the model is
        subject, held = root, _paused(model)
        name = f"{recipe.name}.base.{root.name}"
        previous = [f"{first}.base.{second}" for first, second in _earlier(recipe, root)]
    else:
        subject = parts.resources[address]
        held = _paused(subject, model)
        name = tokenize_name(recipe.name, subject.name)
        previous = [tokenize_name(*pair) for pair in _earlier(recipe, subject)]
    return Step(
        f"tokenize/{name}",
        StepKind.TOKENIZE,
        name,
        subject.address,
        "{}",
        {"documents": FromStep(f"curate/{recipe.name}", "documents"), "tokenizer": _pieces(root, parts)},
        previous_ids=tuple(f"tokenize/{each}" for each in previous),
        suspended=held,
    )


def _pieces(root: Compiled, parts: _Parts) -> Input:
    """The tokenizer of the model that a chain of bases begins with."""
    address = read_facts(root.facts).get("tokenizer")
    if address is None:
        return FromCommit(root.address, parts.bundles[root.address, "tokenizer"])
    return FromStep(f"tokenizer/{_name(address)}", "tokenizer")


def _deployment(deployment: Compiled, parts: _Parts) -> Iterable[Step]:
    facts = read_facts(deployment.facts)
    model = parts.resources[facts["model"]]
    weights = FromStep(f"train/{model.name}", "weights")
    reports: dict[str, Input] = {}
    for index, (address, _) in enumerate(facts["gates"]):
        suite = parts.resources[address]
        name = f"{model.name}.{suite.name}"
        evaluate = Step(
            f"evaluate/{name}",
            StepKind.EVALUATE,
            name,
            model.address,
            suite.parameters,
            {"weights": weights, "tasks": FromCommit(address, parts.bundles[address, "tasks"])},
            previous_ids=tuple(f"evaluate/{pair[0]}.{pair[1]}" for pair in _earlier(model, suite)),
            suspended=_paused(model, suite, deployment),
        )
        yield evaluate
        reports[f"report-{index}"] = FromStep(evaluate.id, "report")
    yield _own_step(StepKind.GATE, deployment, deployment.parameters, reports)
    policy = facts["policy"]
    yield _own_step(
        StepKind.RELEASE,
        deployment,
        deployment.served,
        {
            "weights": weights,
            "verdict": FromStep(f"gate/{deployment.name}", "verdict"),
            "policy": FromCommit(policy, parts.bundles[policy, "policy"]),
        },
        [parts.resources[policy]],
        environment=facts["environment"],
    )


_STEPS_OF = {"DataRecipe": _curate, "Tokenizer": _tokenizer, "Model": _model, "Deployment": _deployment}


def _name(address: str) -> str:
    return address.split("/", 1)[1]


def tokenize_name(data: str, tokenizer: str) -> str:
    """What the tokenization of a recipe with a tokenizer is called."""
    return data if data == tokenizer else f"{data}.{tokenizer}"


def _earlier(first: Compiled, second: Compiled) -> list[tuple[str, str]]:
    """The names of two resources, either or both as they were before; none where neither was renamed."""
    if first.previous is None and second.previous is None:
        return []
    choices = [[item.name] if item.previous is None else [item.name, _name(item.previous)] for item in (first, second)]
    return [(one, two) for one in choices[0] for two in choices[1]][1:]


def unchanged_steps(graph: Mapping[str, Step], base: Mapping[str, Step]) -> frozenset[str]:
    """Ids of the steps that two graphs define alike, with everything before them. Each graph in its own order."""
    alike: set[str] = set()
    for step_id, step in graph.items():
        other = base.get(step_id)
        if other is not None and _definition(step) == _definition(other):
            before = (source.step_id for source in step.inputs.values() if isinstance(source, FromStep))
            if all(name in alike for name in before):
                alike.add(step_id)
    return frozenset(alike)


def _definition(step: Step) -> tuple[object, ...]:
    inputs = {name: source.bundle.digest if isinstance(source, FromCommit) else source for name, source in step.inputs.items()}
    return step.kind, step.canonical_parameters, step.environment, step.suspended, inputs
