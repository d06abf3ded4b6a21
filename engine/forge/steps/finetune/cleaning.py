"""What is done to people's words before anything is learnt of them, with the rules that recipes have (``steps.curate``).

Two rules, in this order, each only where the spec asks for it:
1. A conversation, or a preference, that repeats an item of an evaluation suite goes as a whole: pieces would leave turns
   without what they answer. Its turns are read as one text, so a question and its answer are found although an item holds both.
2. Personal data becomes fixed placeholders, turn by turn.

Invariant: how much went or was replaced is counted, by suite and by kind, and nothing of it is shown.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, TypeVar

from forge.spec.data_recipe import Pii
from forge.spec.tuning import CommittedChats
from forge.steps.curate.phones import check_library
from forge.steps.curate.redact import PII_TYPES, redact
from forge.steps.finetune.conversations import Conversation, Message
from forge.steps.finetune.lines import refuse
from forge.steps.finetune.preferences import Preference, check_agreement
from forge.steps.run import Metrics, StepRun

_BATCH = 1024
"""Texts that are compared at once."""
_Item = TypeVar("_Item", Conversation, Preference)


@dataclass
class Cleaning:
    """The rules of one input, and what they did."""

    run: StepRun
    chats: str
    """The input's name: ``conversations`` or ``preferences``."""
    contaminated: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Raises ``StepError`` where what is asked for needs a library that is not there."""
        if self._pii().phone_regions:
            check_library()

    def of_conversations(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """Those that repeat no suite, without personal data."""
        return [self._redacted(each) for each in self._clean(conversations, [[each] for each in conversations])]

    def of_preferences(self, preferences: Sequence[Preference]) -> list[Preference]:
        """Those that repeat no suite, without personal data; raises ``StepError`` where that makes two answers one."""
        kept = [self._redacted_pair(each) for each in self._clean(preferences, [[p.chosen, p.rejected] for p in preferences])]
        if self.replaced:
            check_agreement(kept)
        return kept

    def metrics(self) -> Metrics:
        """Counts, by suite and by kind; none for what was not asked for."""
        suites, pii = self._suites(), self._pii()
        found: Metrics = {f"contaminated.{suite}": self.contaminated[suite] for suite in suites}
        return found | {f"replaced.{kind}": self.replaced[kind] for kind in PII_TYPES if getattr(pii, kind)}

    def _clean(self, items: Sequence[_Item], conversations: Sequence[Sequence[Conversation]]) -> list[_Item]:
        suites = self._suites()
        if not suites:
            return list(items)
        from forge.steps.curate.contamination import Decontaminator, joins_words
        from forge.steps.curate.signatures import normalised_words

        default: int = CommittedChats.model_fields["decontamination_ngram"].default
        folders = [self.run.input(f"suite-{number}") for number in range(len(suites))]
        ngram, joins = self._asked.get("decontamination_ngram", default), joins_words(self._edition)
        finder = Decontaminator(list(zip(suites, folders, strict=True)), ngram, joins=joins)
        found: list[str | None] = [None] * len(items)
        texts = [
            (place, "\n".join(message.content for message in each.messages))
            for place, several in enumerate(conversations)
            for each in several
        ]
        for first in range(0, len(texts), _BATCH):
            batch = texts[first : first + _BATCH]
            reasons = finder.reasons([text for _, text in batch], [normalised_words(text) for _, text in batch])
            for (place, _), reason in zip(batch, reasons, strict=True):
                found[place] = found[place] or reason
        self.contaminated.update(reason for reason in found if reason)
        is_clean = [reason is None for reason in found]
        if not all(is_clean):
            gone = f"{len(items) - sum(is_clean)} of {len(items)} {self.chats} repeat an item of a suite"
            self.run.emit(message=f"{gone} and are left out")
        return list(compress(items, is_clean))

    def _redacted(self, conversation: Conversation) -> Conversation:
        messages = tuple(Message(each.role, self._without_personal_data(each.content)) for each in conversation.messages)
        return replace(conversation, messages=messages)

    def _without_personal_data(self, text: str) -> str:
        return redact(text, self._pii(), self.replaced, self._edition)

    def _redacted_pair(self, preference: Preference) -> Preference:
        chosen = self._redacted(preference.chosen)
        answer = preference.rejected.messages[-1]
        last = Message(
            answer.role, self._without_personal_data(answer.content)
        )  # the prompt stands in both: it is counted once
        rejected = replace(preference.rejected, messages=(*chosen.messages[:-1], last))
        if chosen.messages[-1].content.strip() == rejected.messages[-1].content.strip():
            refuse(
                preference.place,
                "chosen and rejected differ in personal data alone, which `pii` replaces: there is nothing left to prefer; "
                "change one, or remove the line",
            )
        return Preference(preference.place, chosen, rejected)

    @property
    def _asked(self) -> dict[str, Any]:
        found: dict[str, Any] = self.run.parameters.get(self.chats, {})
        return found

    @property
    def _edition(self) -> int:
        return int(self._asked.get("edition", 1))

    def _pii(self) -> Pii:
        return Pii.model_validate(self._asked.get("pii", {}))

    def _suites(self) -> list[str]:
        return [name.removeprefix("EvalSuite/") for name in self._asked.get("decontaminate_against", [])]
