"""Which models are evaluated on suites that their training data was not cleaned of.

Pure. These are warnings: a suite may be held out by other means (files that no source names), which only its author knows.
"""

from collections.abc import Mapping
from itertools import islice

from forge.spec.compiled import Compiled, read_facts

_MOST = 10


def contamination_warnings(compiled: Mapping[str, Compiled]) -> list[str]:
    """One sentence for each model, suite and recipe, in order; past the tenth only their number."""
    found: dict[tuple[str, str, str], None] = {}
    for address in sorted(address for address, item in compiled.items() if item.kind == "Deployment"):
        facts = read_facts(compiled[address].facts)
        model = facts["model"]
        for data in _read_by(model, compiled):
            if data.startswith(("DataRecipe/", "Model/")):
                cleaned = read_facts(compiled[data].facts).get("suites", ())
                suites = [*(suite for suite, _ in facts["gates"]), *_chosen_by(model, compiled)]
                found |= {(model, suite, data): None for suite in suites if suite not in cleaned}
            else:
                found[model, "", data] = None
    messages = [_message(*row, compiled) for row in islice(found, _MOST)]
    return messages if len(found) <= _MOST else [*messages, f"and {len(found) - _MOST} more like these"]


def _message(model: str, suite: str, data: str, compiled: Mapping[str, Compiled]) -> str:
    """``suite`` is empty where ``data`` is a folder of weights; a model as ``data`` is what it learnt to answer from."""
    if not suite:
        return f"{model} is evaluated, and what the weights in {data} were trained on is not known here"
    if data.startswith("Model/"):
        chats = read_facts(compiled[data].facts)["chats"]
        remedy = f"list {suite} in their `decontaminate_against`"
        return f"{model} is evaluated on {suite}, and the {chats} of {data} are not cleaned of it: {remedy}"
    remedy = f"list {suite} in {data}'s `decontaminate_against`"
    return f"{model} is evaluated on {suite}, and its data, {data}, is not cleaned of it: {remedy}"


def _chosen_by(address: str | None, compiled: Mapping[str, Compiled]) -> list[str]:
    """The suites by which searches chose a model, or one of its bases: every trial is evaluated on them."""
    found = []
    while address is not None:
        facts = read_facts(compiled[address].facts)
        if "sweep" in facts:
            found.append(read_facts(compiled[facts["sweep"]].facts)["suite"])
        address = facts.get("base")
    return found


def _read_by(address: str | None, compiled: Mapping[str, Compiled]) -> list[str]:
    """What a model's weights come from, its bases' included: recipes, models that learnt from chats, and a folder."""
    found: dict[str, None] = {}
    while address is not None:
        model = compiled[address]
        found |= dict.fromkeys(target for target in model.references if target.startswith("DataRecipe/"))
        facts = read_facts(model.facts)
        if "chats" in facts:
            found[address] = None
        if "folder" in facts:
            found[facts["folder"]] = None
        address = facts.get("base")
    return list(found)
