"""What a SupplyChain asks of the other resources of its commit, and what it needs of People."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forge.spec.compiled import Compiled, read_facts

Row = tuple[int, tuple[str | int, ...], str, int | None]
"""Number of the resource at fault, place in its document, message, and the resource that the message calls the first."""
SINGLE = ("People", "SupplyChain", "Withdrawals")


def governed(compiled: Sequence[Compiled], by_address: Mapping[str, int]) -> Iterator[Row]:
    """Every fault between the commit's SupplyChain, its People, and what they govern."""
    found: dict[str, int] = {}
    for index, item in enumerate(compiled):
        if item.kind in SINGLE and by_address[item.address] == index and found.setdefault(item.kind, index) != index:
            message = f"a commit has one {item.kind}, and {compiled[found[item.kind]].address} is there already"
            yield index, ("metadata", "name"), message, found[item.kind]
    if "SupplyChain" in found:
        rules = read_facts(compiled[found["SupplyChain"]].facts)
        people = read_facts(compiled[found["People"]].facts) if "People" in found else {"people": []}
        yield from _names(rules, people, found["SupplyChain"])
        yield from _duties(rules, found["SupplyChain"])
        yield from _demands(rules.get("release", {}), compiled, by_address)


def _names(rules: Mapping[str, Any], people: Mapping[str, Any], subject: int) -> Iterator[Row]:
    """Approvers and holders of keys are people that somebody has listed."""
    known = [person["name"] for person in people["people"]]
    rows: list[tuple[tuple[str | int, ...], str]] = [
        (("spec", "approvers", number), name) for number, name in enumerate(rules.get("approvers", []))
    ]
    for role, role_rules in rules["roles"].items():
        for number, key in enumerate(role_rules.get("keys", [])):
            if key.get("holder") is not None:
                rows.append((("spec", "roles", role, "keys", number, "holder"), key["holder"]))
    for place, name in rows:
        if name not in known:
            from forge.spec.load import did_you_mean

            yield subject, place, f"People has no `{name}`{did_you_mean(name, known)}", None


def _duties(rules: Mapping[str, Any], subject: int) -> Iterator[Row]:
    """A group that nothing could hold anybody to is refused: it would read like a promise.

    Not a rule of the type, because a charter that was signed before it has to stay readable.
    """
    for number, group in enumerate(rules.get("separation_of_duties", [])):
        others = [duty for duty in group if duty not in ("author", "approver")]
        if "author" in group and others:
            message = (
                f"nobody can tell that an author has no key of the {others[0]}: `author` is kept apart from `approver` alone; "
                f"write [author, approver], and a group of its own for {', '.join(others)}"
            )
            yield subject, ("spec", "separation_of_duties", number), message, None
        for role in others if "approver" in group else ():
            for index, key in enumerate(rules["roles"].get(role, {}).get("keys", [])):
                if key.get("holder") is None:
                    message = (
                        f"separation_of_duties keeps {role} and approver apart, and whose key `{key['name']}` is does not "
                        f"stand here: give it a `holder` that People lists, or take {role} out of the group"
                    )
                    yield subject, ("spec", "roles", role, "keys", index), message, None


def _demands(release: Mapping[str, Any], compiled: Sequence[Compiled], by_address: Mapping[str, int]) -> Iterator[Row]:
    wanted = [item["suite"] for item in release.get("evaluations", [])]
    licenses = release.get("licenses")
    for index, item in enumerate(compiled):
        if by_address[item.address] != index:
            continue
        facts = read_facts(item.facts)
        if item.kind == "Deployment":
            gates = {suite for suite, _ in facts["gates"]}
            for suite in wanted:
                if suite not in gates:
                    message = f"the SupplyChain lets nothing be released without {suite}, and no gate here is about it"
                    yield index, ("spec", "gates"), message, None
        elif item.kind == "Model" and licenses is not None:
            if facts.get("license") not in (None, *licenses):  # of a base that lies in the repository
                message = f"`license` is {facts['license']!r}; the SupplyChain allows {', '.join(licenses) or 'none'}"
                yield index, ("spec", "base", "license"), message, None
            if facts.get("chats_license") not in (None, *licenses):
                message = f"`license` is {facts['chats_license']!r}; the SupplyChain allows {', '.join(licenses) or 'none'}"
                yield index, ("spec", facts["chats"], "license"), message, None
        elif item.kind == "DataRecipe" and licenses is not None:
            for number, license_ in enumerate(facts["licenses"]):
                if license_ not in licenses:
                    message = f"`license` is {license_!r}; the SupplyChain allows {', '.join(licenses) or 'none'}"
                    yield index, ("spec", "sources", number, "license"), message, None
