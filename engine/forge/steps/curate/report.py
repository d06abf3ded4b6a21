"""What happened to each source's documents: the report product. Counts only; no text, no value of personal data."""

from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from datatrove.data import Document


@dataclass
class Size:
    """A number of documents and the UTF-8 bytes of their texts."""

    documents: int = 0
    bytes: int = 0

    def add(self, text: str) -> None:
        """Count one text."""
        self.documents += 1
        self.bytes += len(text.encode("utf-8"))

    def as_json(self) -> dict[str, int]:
        """For the report."""
        return {"documents": self.documents, "bytes": self.bytes}


@dataclass
class Tally:
    """Everything that is counted while documents pass."""

    sources: int
    read: list[Size] = field(default_factory=list)
    kept: list[Size] = field(default_factory=list)
    removed: list[Counter[str]] = field(default_factory=list)
    splits: dict[str, Size] = field(default_factory=lambda: {"train": Size(), "validation": Size()})
    personal: Counter[str] = field(default_factory=Counter)
    control_tokens: int = 0

    def __post_init__(self) -> None:
        self.read = [Size() for _ in range(self.sources)]
        self.kept = [Size() for _ in range(self.sources)]
        self.removed = [Counter() for _ in range(self.sources)]

    def removals(self) -> Counter[str]:
        """By rule, over all sources."""
        return sum(self.removed, Counter())

    def as_json(self) -> dict[str, Any]:
        """The report product."""
        return {
            "schema_version": 1,
            "sources": [
                {"read": read.as_json(), "removed": dict(removed), "kept": kept.as_json()}
                for read, removed, kept in zip(self.read, self.removed, self.kept, strict=True)
            ],
            "removed": dict(self.removals()),
            "personal_data_replaced": dict(self.personal),
            "control_tokens_neutralised": self.control_tokens,
            "splits": {name: size.as_json() for name, size in self.splits.items()},
        }


class Removed:
    """Stands where datatrove wants an exclusion writer: counts a removed document under its source and rule."""

    def __init__(self, tally: Tally, rule: str) -> None:
        self._tally = tally
        self._rule = rule

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def write(self, document: Document, rank: int = 0) -> None:  # noqa: ARG002 (datatrove passes its rank)
        """Count one document; a filter leaves the rule's part that failed in the document's metadata."""
        reason = document.metadata.pop("filter_reason", None)
        rule = f"{self._rule}.{reason.removeprefix('gopher_')}" if reason else self._rule
        self._tally.removed[document.metadata["source"]][rule] += 1
