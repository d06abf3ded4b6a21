"""Which models are evaluated on suites that their training data was not cleaned of.

Pure. These are warnings: a suite may be held out by other means (files that no source names), which only its author knows.
"""

from collections.abc import Mapping

from forge.spec.compiled import Compiled, read_facts

_MOST = 10


def contamination_warnings(compiled: Mapping[str, Compiled]) -> list[str]:
    """One sentence for each model, suite and recipe, in order; past the tenth only their number."""
    found: dict[str, None] = {}
    for address in sorted(compiled):
        if compiled[address].kind != "Deployment":
            continue
        facts = read_facts(compiled[address].facts)
        model = compiled[facts["model"]]
        for data in _read_by(model.address, compiled):
            if data.startswith("Model/"):
                learnt = read_facts(compiled[data].facts)
                for suite, _ in facts["gates"]:
                    if suite not in learnt.get("suites", ()):
                        message = (
                            f"{model.address} is evaluated on {suite}, and the {learnt['chats']} of {data} are not cleaned"
                        )
                        found[f"{message} of it: list {suite} in their `decontaminate_against`"] = None
            elif data.startswith("DataRecipe/"):
                cleaned = read_facts(compiled[data].facts).get("suites", ())
                for suite, _ in facts["gates"]:
                    if suite not in cleaned:
                        message = f"{model.address} is evaluated on {suite}, and its data, {data}, is not cleaned of it"
                        found[f"{message}: list {suite} in {data}'s `decontaminate_against`"] = None
            else:
                message = f"{model.address} is evaluated, and what the weights in {data} were trained on is not known here"
                found[message] = None
    messages = list(found)
    return messages if len(messages) <= _MOST else [*messages[:_MOST], f"and {len(messages) - _MOST} more like these"]


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
