"""Reading the ``documents`` product: a folder per split with JSON lines of ``id`` and ``text``."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forge.errors import StepError

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class TextDocument:
    """One curated document."""

    id: str
    text: str


def document_files(product: Path, split: str) -> list[Path]:
    """The files of a split in reading order; raises StepError where there is none."""
    paths = sorted((product / split).glob("*.jsonl"))
    if not paths:
        raise StepError(f"the documents hold no {split}/*.jsonl; expected the product of a curate step")
    return paths


def read_documents(product: Path, split: str) -> Iterator[TextDocument]:
    """The documents of a split in order; raises StepError that names the line of what is no document."""
    for path in document_files(product, split):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                    yield TextDocument(row["id"], row["text"])
                except (ValueError, KeyError, TypeError) as error:
                    raise StepError(f"{split}/{path.name}, line {number}: not a curated document: {error!r}") from error
