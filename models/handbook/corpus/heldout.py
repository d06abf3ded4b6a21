"""Which documents are held out of the corpus, and the evaluation items that are made of them.

Invariant: no run of SHINGLE_WORDS words of an evaluation document occurs in a document of the corpus, so that a model
is never asked what it has read; ``check`` raises otherwise. Every choice is a hash of the text, never the state of a
random generator, so that equal packages give equal items. Contexts and continuations are cut at words, by
characters: they do not depend on any tokenizer.
"""

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass

from sections import Document

HELD_OUT_FRACTION = 0.08
"""Of the documents, by hash; about 6.6% remain once those that repeat the corpus have gone back."""
SHINGLE_WORDS = 13
CLOZE_ITEMS = 300
CONTEXT_CHARACTERS = 300
"""Some 60 to 100 tokens of a small vocabulary."""
CONTINUATION_CHARACTERS = 105
"""Some 32 tokens of a small vocabulary."""
STRIDE_CHARACTERS = 400
"""Distance between the contexts that are taken from one document."""
CHOICES = 4
ROLLING_DOCUMENTS = 64
ROLLING_CHARACTERS = 2000

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Passage:
    """A place in a held-out document: what stands before it and what follows."""

    document: str
    context: str
    continuation: str


def split(documents: list[Document]) -> tuple[list[Document], list[Document]]:
    """Corpus and held-out documents. One that repeats a passage of the corpus goes back to the corpus."""
    held_out = {document.id for document in documents if _fraction(document.text) < HELD_OUT_FRACTION}
    owners: dict[str, set[str]] = defaultdict(set)
    for document in documents:
        for shingle in shingles(document.text):
            owners[shingle].add(document.id)
    shared = [ids for ids in owners.values() if len(ids) > 1]
    changed = True
    while changed:
        returned = {name for ids in shared if not ids <= held_out for name in ids & held_out}
        changed = bool(returned)
        held_out -= returned
    return [d for d in documents if d.id not in held_out], [d for d in documents if d.id in held_out]


def check(corpus: list[Document], texts: list[str]) -> None:
    """Raise where an evaluation text occurs in the corpus, as a whole or by SHINGLE_WORDS words in a row."""
    known = {shingle for document in corpus for shingle in shingles(document.text)}
    everything = "\n".join(" ".join(document.text.split()) for document in corpus)
    for text in texts:
        if not known.isdisjoint(shingles(text)) or (len(text) > 60 and " ".join(text.split()) in everything):
            raise SystemExit(f"held-out text occurs in the corpus: {text[:80]!r}")


def shingles(text: str) -> set[str]:
    """Every run of SHINGLE_WORDS words, in lower case and without punctuation."""
    words = _WORD.findall(text.lower())
    return {" ".join(words[start : start + SHINGLE_WORDS]) for start in range(len(words) - SHINGLE_WORDS + 1)}


def cloze(held_out: list[Document]) -> list[dict[str, object]]:
    """Contexts with their true continuation among three that follow elsewhere in other held-out documents."""
    passages = sorted((p for document in held_out for p in _passages(document)), key=lambda p: _order(p.context))
    passages = passages[:CLOZE_ITEMS]
    items: list[dict[str, object]] = []
    for number, passage in enumerate(passages):
        others = sorted(
            (p for p in passages if p.document != passage.document),
            key=lambda p: _order(passage.context + "\n" + p.context),
        )
        choices = [p.continuation for p in others[: CHOICES - 1]]
        gold = number % CHOICES  # the order of the passages is already a hash
        choices.insert(gold, passage.continuation)
        items.append({"id": f"{passage.document}:{number}", "context": passage.context, "choices": choices, "gold": gold})
    return items


def rolling(held_out: list[Document]) -> list[dict[str, object]]:
    """Beginnings of held-out documents, whole paragraphs up to ROLLING_CHARACTERS."""
    items: list[dict[str, object]] = []
    for document in sorted(held_out, key=lambda document: _order(document.text))[:ROLLING_DOCUMENTS]:
        text = document.text[:ROLLING_CHARACTERS]
        if len(text) < len(document.text):
            text = text.rsplit(" ", 1)[0].rstrip()
        items.append({"id": document.id, "text": text})
    return items


def _passages(document: Document) -> list[Passage]:
    """Places STRIDE_CHARACTERS apart, in prose: the continuation stands within one paragraph of some length."""
    found = []
    earliest = CONTEXT_CHARACTERS * 2 // 3
    start = 0
    for paragraph in document.text.split("\n\n"):
        place = document.text.index(paragraph, start)
        start = place + len(paragraph)
        if "\n" in paragraph or paragraph.count("|") > 1:
            continue
        for word in re.finditer(r" ", paragraph):
            cut = place + word.start()
            rest = paragraph[word.end() :]
            if cut < earliest or len(rest) < CONTINUATION_CHARACTERS:
                continue
            context = document.text[max(0, cut - CONTEXT_CHARACTERS) : cut]
            context = context if cut <= CONTEXT_CHARACTERS else context.split(" ", 1)[1].lstrip()
            continuation = f"{rest} "[: CONTINUATION_CHARACTERS + 1].rsplit(" ", 1)[0]
            if len(continuation) < CONTINUATION_CHARACTERS * 4 // 5:
                continue  # a long word was cut off: the length would give the answer away
            found.append(Passage(document.id, context, continuation))
            earliest = cut + STRIDE_CHARACTERS
    return found


def _order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fraction(text: str) -> float:
    return int(_order("held out\n" + text)[:13], 16) / 16**13
