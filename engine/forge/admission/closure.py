"""The records that a verification is about: what its roots descend from.

An input is followed to every record that made it, for two models may have made the same documents or the same report, and each
of them is a way to it. What a search chose is the exception: a few numbers, which another model's search, or another trial, may
have chosen as well. That is followed to what the commit asks for alone; and a search that picked what one of its trials had
already is in the closure of whatever its commit has read it, though no digest leads there. Otherwise an unrelated search would
be part of a chain, and the one that it rests on would not.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from forge.attest.layout import Done, recorded_behind, steps_behind
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release
from forge.plan.step import FromStep, Step

GraphOf = Callable[[str], Mapping[str, Step]]
"""Commit -> its steps; empty where it cannot be read."""


class Closure:
    """Follows inputs to the records that made them."""

    def __init__(self, records: Sequence[Record], graph_of: GraphOf) -> None:
        self._graph_of = graph_of
        self._by_key = {record.key: record for record in records}
        self.makers: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            for digest in record.products.values():
                self.makers[digest].append(record)
        self.chosen = {digest for record in records if record.step is StepKind.SWEEP for digest in record.products.values()}
        """What sweep steps made."""
        self._behind: dict[tuple[str, str], Mapping[str, Done]] = {}

    def of(self, roots: Sequence[Record], release: Release | None) -> dict[str, Record]:
        """By key: the roots and all that they descend from, as the commit of the release, or else of each root, asks for it."""
        pending = [*roots]
        for root in roots:
            commit = root.commit if release is None else release.commit
            pending += [done.record for done in self._searches(commit, root.step_id)]
        found: dict[str, Record] = {}
        followed: set[str] = set()  # a thousand records may have read one artifact
        while pending:
            record = pending.pop()
            if record.key in found:
                continue
            found[record.key] = record
            for name, digest in record.inputs.items():
                if digest not in followed:
                    pending += self.made(record, name, digest)
                if digest not in self.chosen:
                    followed.add(digest)
        return found

    def made(self, record: Record, name: str, digest: str) -> list[Record]:
        """The records that made an input of a record."""
        makers = self.makers.get(digest, [])
        if digest not in self.chosen:
            return makers
        graph = self._graph_of(record.commit)
        step = graph.get(record.step_id)
        source = step.inputs.get(name) if step is not None else None
        if not isinstance(source, FromStep) or source.step_id not in graph:
            return makers  # a fault, which the rules name
        asked = graph[source.step_id]
        exact = self._recorded(record.commit, record.step_id).get(source.step_id)
        rules: tuple[Callable[[Record], bool], ...] = (
            lambda maker: exact is not None and maker.key == exact.record.key,
            lambda maker: maker.parameters == dict(asked.parameters) and maker.inputs.keys() == asked.inputs.keys(),
        )
        return next((found for rule in rules if (found := [maker for maker in makers if rule(maker)])), makers)

    def _searches(self, commit: str, step_id: str) -> Iterator[Done]:
        """The records of the sweep steps behind a step."""
        return (done for done in self._recorded(commit, step_id).values() if done.step.kind is StepKind.SWEEP)

    def _recorded(self, commit: str, step_id: str) -> Mapping[str, Done]:
        """What is recorded behind a step of a commit that rests on a search; nothing for one that does not."""
        place = (commit, step_id)
        if place not in self._behind:
            graph = self._graph_of(commit)
            step = graph.get(step_id)
            searched = step is not None and any(each.kind is StepKind.SWEEP for each in steps_behind(step, graph))
            self._behind[place] = recorded_behind(step, graph, self._by_key.get) if step is not None and searched else {}
        return self._behind[place]
