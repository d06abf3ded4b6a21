"""What happened to each source's documents: the report product. Counts only; no text, no value of personal data."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Size:
    """A number of documents and the UTF-8 bytes of their texts."""

    documents: int = 0
    bytes: int = 0

    def add(self, text_bytes: int) -> None:
        """Count one text of that size."""
        self.documents += 1
        self.bytes += text_bytes

    def __iadd__(self, other: "Size") -> Self:
        self.documents += other.documents
        self.bytes += other.bytes
        return self

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
