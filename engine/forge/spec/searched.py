"""What has to hold between a Sweep, its suite, the models that name it, and what serves those."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forge.spec.compiled import Compiled, read_facts, read_json
from forge.spec.governed import Row


def searched(compiled: Sequence[Compiled], by_address: Mapping[str, int]) -> Iterator[Row]:
    """Every fault that shows only where they are seen together."""
    if not any(item.kind == "Sweep" for item in compiled):
        return
    first = [(index, item) for index, item in enumerate(compiled) if by_address[item.address] == index]
    sweeps = {item.address: (index, item) for index, item in first if item.kind == "Sweep"}
    facts: dict[str, dict[str, Any]] = {
        item.address: read_facts(item.facts) for _, item in first if item.kind in ("Sweep", "Model", "EvalSuite")
    }
    for address, (index, _) in sweeps.items():
        suite = facts[address]["suite"]
        tasks = facts.get(suite, {}).get("tasks")
        if tasks is not None and facts[address]["task"] not in tasks:
            from forge.spec.load import did_you_mean

            task = facts[address]["task"]
            yield index, ("spec", "objective", "task"), f"{suite} has no task `{task}`{did_you_mean(task, tasks)}", None
    for index, item in first:
        if item.kind == "Model" and facts[item.address].get("sweep") in sweeps:
            yield from _of_model(index, item, facts, sweeps[facts[item.address]["sweep"]][1])
        elif item.kind == "Deployment":
            yield from _of_deployment(index, item, facts)


def _of_model(index: int, model: Compiled, facts: Mapping[str, Mapping[str, Any]], sweep: Compiled) -> Iterator[Row]:
    """Whether a model can be trained as its sweep's trials are."""
    from forge.spec.sweep import Round
    from forge.spec.trials import why_not_searched

    place = ("spec", "sweep")
    if "branches" in facts[model.address]:
        message = "a branch is not searched: it shares its first steps with another training; leave `from` or `sweep` out"
        yield index, place, message, None
        return
    left_by = next((address for address, fact in facts.items() if fact.get("branches", [None])[0] == model.address), None)
    if left_by is not None:
        message = f"{left_by} branches from it: a training that is searched for is not known by its steps; leave `sweep` out"
        yield index, place, message, None
        return
    sought: dict[str, Any] = read_json(sweep.parameters)
    rounds = [Round.model_validate(each) for each in sought["rounds"]]
    parameters, settings = read_json(model.parameters), read_json(model.settings)
    fault = why_not_searched(parameters, settings, facts[model.address]["processes"], rounds, sought.get("trial", {}))
    if fault is not None:
        yield index, place, f"{sweep.address} does not fit {model.address}: {fault}", None


def _of_deployment(index: int, deployment: Compiled, facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """A gate that asks what its model was chosen by asks nothing: the best of many trials is good on that by selection."""
    own = read_facts(deployment.facts)
    chosen = {}
    for model in _chain(own["model"], facts):
        sweep = facts[model].get("sweep")
        if isinstance(sweep, str) and sweep in facts:
            chosen[facts[sweep]["suite"], facts[sweep]["task"]] = (model, sweep)
    for number, (suite, tasks) in enumerate(own["gates"]):
        for (used, task), (model, sweep) in chosen.items():
            if suite == used or task in tasks:
                what = suite if suite == used else f"the task {task}"
                message = (
                    f"{model} was chosen by {what} ({sweep}), so that says nothing of it: gate on one that no search reads"
                )
                yield index, ("spec", "gates", number, "suite"), message, None


def _chain(model: str | None, facts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A model and those whose weights it goes on with; ends also where they form a circle."""
    seen: set[str] = set()
    while model is not None and model in facts and model not in seen:
        seen.add(model)
        yield model
        model = facts[model].get("base")
