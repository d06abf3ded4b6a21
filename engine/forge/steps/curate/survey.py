"""Samples of what each rule removed, and a look at some of what is kept: the by-product ``survey`` (``forge.contract.survey``).

Invariant: which documents are drawn depends on the documents alone, not on processes or time: those with the least hashes. What
is kept in memory is bounded whatever the corpus. Text leaves this module redacted by every rule, and cut: what is redacted
reaches further than what is shown, so that no value is cut in two and shown in part.
"""

from bisect import insort
from collections import Counter
from hashlib import blake2b
from json import loads
from typing import Generic, NamedTuple, TypeVar

from forge.contract.survey import UNDETERMINED, LanguageShare, Sample, SuiteCoverage, Survey
from forge.errors import StepError
from forge.spec.data_recipe import Pii
from forge.steps.curate.language import load_model
from forge.steps.curate.redact import PII_TYPES, redact

PER_RULE = 5
EXCERPT_CHARACTERS = 240
MOST_LOOKED_AT = 128
"""Each costs 0.3 ms in one process while the others wait; a share is told to within 4 in 100 (standard error)."""
LOOKED_AT_CHARACTERS = 1000
_REACH = 4 * EXCERPT_CHARACTERS
_LONGEST_VALUE = 320
"""Characters of the longest value of personal data: 64 and 255 and an @ in an e-mail address (RFC 3696)."""
_ID_CHARACTERS = 80
_LEAST_SCORE = 0.5
_UNSHOWN = ("license", "contaminated")
"""Rules of whose documents no text is kept."""
_EDITION = 2
"""Whatever the recipe's is: a by-product shapes nothing, and should show as little as can be."""
_Item = TypeVar("_Item")


class Draw(Generic[_Item]):
    """Of all that is offered the items with the least marks; of equal marks the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._drawn: list[tuple[int, _Item]] = []

    def wants(self, mark: int) -> bool:
        """Whether an item with that mark would be drawn now."""
        return len(self._drawn) < self._most or mark < self._drawn[-1][0]

    def add(self, mark: int, item: _Item) -> None:
        """Offer an item."""
        if self.wants(mark):
            insort(self._drawn, (mark, item), key=lambda drawn: drawn[0])
            del self._drawn[self._most :]

    def merge(self, other: "Draw[_Item]") -> None:
        """Offer what another draw has drawn from what comes later."""
        for mark, item in other._drawn:  # noqa: SLF001 (its own class)
            self.add(mark, item)

    def items(self) -> list[_Item]:
        """What is drawn, by mark."""
        return [item for _, item in self._drawn]


class _Seen(NamedTuple):
    """A removed document, not yet redacted: it lies in memory only."""

    source: int
    id: str
    bytes: int
    head: str | None


class Samples:
    """Some documents of each rule that removed any."""

    def __init__(self) -> None:
        self._drawn: dict[str, Draw[_Seen]] = {}

    def add(self, rule: str, source: int, name: str, text: str) -> None:
        """Offer a document that the rule removed."""
        draw = self._drawn.setdefault(rule, Draw(PER_RULE))
        mark = _mark(f"{source}\n{name}\n{text[:_REACH]}".encode())
        if draw.wants(mark):
            head = None if rule.startswith(_UNSHOWN) else text[:_REACH]
            draw.add(mark, _Seen(source, name[:_REACH], len(text.encode()), head))

    def add_line(self, rule: str, source: int, line: bytes) -> None:
        """Offer a removed document that is given as its line, which is read only where it is drawn."""
        draw = self._drawn.setdefault(rule, Draw(PER_RULE))
        mark = _mark(line[:_REACH])
        if draw.wants(mark):
            row = loads(line)
            draw.add(mark, _Seen(source, row["id"][:_REACH], len(row["text"].encode()), row["text"][:_REACH]))

    def merge(self, later: "Samples") -> None:
        """Take over what was drawn from later documents."""
        for rule, draw in later._drawn.items():  # noqa: SLF001 (its own class)
            self._drawn.setdefault(rule, Draw(PER_RULE)).merge(draw)

    def finish(self, phone_regions: list[str] | None = None) -> dict[str, tuple[Sample, ...]]:
        """The samples, redacted; ``phone_regions``: those of the recipe."""
        rules = _everything(phone_regions or [])
        return {rule: tuple(_sample(seen, rules) for seen in draw.items()) for rule, draw in sorted(self._drawn.items())}


class SurveyTaker:
    """What is noted while documents pass."""

    def __init__(self, sources: int, phone_regions: list[str] | None = None) -> None:
        self.samples = Samples()
        self.suites: dict[str, SuiteCoverage] = {}
        """What was looked for of each suite."""
        self._lengths: list[Counter[int]] = [Counter() for _ in range(sources)]
        self._kept: Draw[str] = Draw(MOST_LOOKED_AT)
        self._phone_regions = phone_regions or []

    def kept(self, source: int, text_bytes: int, line: bytes) -> None:
        """Note a document that stays, given as its line."""
        self._lengths[source][text_bytes.bit_length()] += 1
        mark = _mark(line[:_REACH])
        if self._kept.wants(mark):  # rare once some have passed: only then is the line read
            self._kept.add(mark, loads(line)["text"][:LOOKED_AT_CHARACTERS])

    def duplicate(self, rule: str, source: int, line: bytes) -> None:
        """Note a document that goes because an earlier one is like it."""
        self.samples.add_line(rule, source, line)

    def finish(self) -> Survey:
        """The by-product."""
        texts = self._kept.items()
        found, rules = Counter[str](), _everything(self._phone_regions)
        for text in texts:
            redact(text, rules, found, _EDITION)
        fault = ""
        languages: dict[str, LanguageShare] | None = None
        try:
            languages = _languages(texts)
        except StepError as error:  # the model is not installed: the documents do not depend on it, and the survey says so
            fault = str(error)
        return Survey(
            samples_per_rule=PER_RULE,
            samples=self.samples.finish(self._phone_regions),
            lengths=tuple({str(bits): count for bits, count in sorted(own.items())} for own in self._lengths),
            documents=len(texts),
            characters=LOOKED_AT_CHARACTERS,
            languages=languages,
            languages_fault=fault,
            personal_data=dict(sorted(found.items())),
            suites=self.suites,
        )


def _mark(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest())


def _everything(phone_regions: list[str]) -> Pii:
    """Every rule there is. Only a recipe knows which countries' own numbers may stand in its documents."""
    return Pii.model_validate({**dict.fromkeys(PII_TYPES, True), "phone_regions": phone_regions})


def _sample(seen: _Seen, rules: Pii) -> Sample:
    excerpt = None if seen.head is None else _excerpt(seen.head, EXCERPT_CHARACTERS, rules)
    return Sample(source=seen.source, id=_excerpt(seen.id, _ID_CHARACTERS, rules), bytes=seen.bytes, excerpt=excerpt)


def _excerpt(head: str, most: int, rules: Pii) -> str:
    """The beginning, redacted; of a text that was cut off nothing that a value which was cut in two may have left."""
    redacted = redact(head, rules, Counter(), _EDITION)
    safe = len(redacted) if len(head) < _REACH else max(0, len(redacted) - _LONGEST_VALUE)
    return redacted[: min(most, safe)]


def _languages(texts: list[str]) -> dict[str, LanguageShare]:
    """By language, the most first; raises StepError where the model cannot be had."""
    model = load_model()
    documents, sizes = Counter[str](), Counter[str]()
    for text in texts:
        labels, scores = model.predict(text.replace("\n", " "), k=1)
        known = bool(len(labels)) and float(scores[0]) >= _LEAST_SCORE
        language = str(labels[0]).removeprefix("__label__") if known else UNDETERMINED
        documents[language] += 1
        sizes[language] += len(text.encode())
    names = sorted(documents, key=lambda name: (-sizes[name], name))
    return {name: LanguageShare(documents=documents[name], bytes=sizes[name]) for name in names}
