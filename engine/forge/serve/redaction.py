"""Redaction of answers, whole and streamed, with one meaning.

Invariant: for every text and every way to split it, ``StreamRedactor`` releases exactly ``redact(text)``.

Why it holds. A pattern has no anchors and no look-around (forge.spec.pattern refuses them), so whether a match starts at
a place, and which one RE2 prefers there, depends only on the text from that place on. It is undecided only while the
text from that place to the end so far is the beginning of a match: one more character could make a match, or a longer
one. The leftmost such place is the horizon. What stands before it is decided and leaves; what stands after it waits:
for an e-mail pattern, about one word. Because matches are bounded, no more than the widest match ever waits.

Several redactions apply one after another, each to what the one before it released. A replacement is literal text.
What is redacted is the text as the model wrote it: an escape inside a JSON answer hides a match from a pattern.
"""

from collections.abc import Sequence
from typing import Any

import re2

from forge.errors import ServeError
from forge.spec.inference_policy import Redaction
from forge.spec.pattern import beginning_of_match, widest_match

Counts = dict[str, int]
"""Matches that were replaced, by the redaction's name; every redaction of the policy is in it."""


class CompiledRedaction:
    """One redaction, ready to match; immutable, shared by all requests."""

    def __init__(self, redaction: Redaction) -> None:
        self.name = redaction.name
        self.replacement = redaction.replacement
        self.widest = widest_match(redaction.pattern)
        self.matches = _compile(redaction.name, redaction.pattern)
        self._undecided = _compile(redaction.name, rf"(?:{beginning_of_match(redaction.pattern)})\z")

    def horizon(self, text: str, position: int) -> int:
        """The first place at or after ``position`` where a match may start or grow once more text arrives."""
        return int(self._undecided.search(text, max(position, len(text) - self.widest)).start())


def compile_redactions(redactions: Sequence[Redaction]) -> tuple[CompiledRedaction, ...]:
    """Compile a policy's redactions once; raises ServeError for one that RE2 cannot take."""
    return tuple(CompiledRedaction(redaction) for redaction in redactions)


def redact(text: str, redactions: Sequence[CompiledRedaction]) -> tuple[str, Counts]:
    """Replace every match in a whole text; also says how many there were."""
    counts: Counts = {}
    for redaction in redactions:
        text, counts[redaction.name] = _replace_all(text, redaction)
    return text, counts


class StreamRedactor:
    """Redacts one text that arrives in pieces; one per choice of an answer."""

    def __init__(self, redactions: Sequence[CompiledRedaction]) -> None:
        self._stages = [_Stage(redaction) for redaction in redactions]

    def feed(self, chunk: str) -> str:
        """Take the next piece of text; returns what is decided by now and may leave."""
        for stage in self._stages:
            chunk = stage.feed(chunk)
        return chunk

    def finish(self) -> str:
        """There is no more text; returns the rest."""
        rest = ""
        for stage in self._stages:
            rest = stage.feed(rest) + stage.finish()
        return rest

    @property
    def counts(self) -> Counts:
        """Matches replaced so far."""
        return {stage.redaction.name: stage.count for stage in self._stages}


class _Stage:
    """The text that one redaction still holds back."""

    def __init__(self, redaction: CompiledRedaction) -> None:
        self.redaction = redaction
        self.count = 0
        self._held = ""

    def feed(self, chunk: str) -> str:
        if not chunk:
            return ""
        text = self._held + chunk
        released: list[str] = []
        position = 0
        horizon = self.redaction.horizon(text, 0)
        for match in self.redaction.matches.finditer(text):
            start, end = match.span()
            if start >= horizon:
                break
            released += (text[position:start], self.redaction.replacement)
            self.count += 1
            position = end
            if horizon < position:
                horizon = self.redaction.horizon(text, position)
        released.append(text[position:horizon])
        self._held = text[horizon:]
        return "".join(released)

    def finish(self) -> str:
        rest, count = _replace_all(self._held, self.redaction)
        self.count += count
        self._held = ""
        return rest


def _replace_all(text: str, redaction: CompiledRedaction) -> tuple[str, int]:
    replaced, count = redaction.matches.subn(lambda _: redaction.replacement, text)
    return str(replaced), int(count)


def _compile(name: str, pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ServeError(
            f"redaction {name!r}: RE2 cannot compile its pattern ({error}): use fewer or smaller repetitions"
        ) from error
