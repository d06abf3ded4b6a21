"""The handbook's own table of contents -> conversations, and preferences, about where something is described.

The command, from the root of this repository:

    python models/examples/handbook-answers/make_chats.py

It writes models/examples/handbook-answers/chats/which-manual.jsonl and
models/examples/handbook-preferred/pairs/which-manual.jsonl. A question is the title of a section; the answer is the manual that
has it; what is rejected is another manual. Equal corpora give equal files: what is chosen is chosen by hash. Only manuals under
GPL-2.0-or-later are used, so that one licence covers each file, and only titles that one manual alone has, so that no question
has two answers.
"""

import gzip
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parents[1] / "handbook" / "corpus"
CHATS = HERE / "chats" / "which-manual.jsonl"
PAIRS = HERE.parent / "handbook-preferred" / "pairs" / "which-manual.jsonl"
MANUALS = {
    "aptitude-doc-en": "the aptitude user's manual",
    "debian-edu-doc-en": "the Debian Edu manual",
    "debian-history": "A Brief History of Debian",
    "debian-kernel-handbook": "the Debian Kernel Handbook",
    "debian-policy": "the Debian Policy Manual",
    "debian-reference-en": "the Debian Reference",
    "developers-reference": "the Debian Developer's Reference",
    "harden-doc": "the Securing Debian Manual",
    "maint-guide": "the Debian New Maintainers' Guide",
}
"""Package -> what people call its manual."""
QUESTIONS = (
    "Where do I read about {}?",
    "Which manual has the section {}?",
    "I look for {}. Where is it described?",
)
SHORTEST, LONGEST = 6, 44
"""Characters of a title."""
MOST = 40
"""Titles of one manual."""


def main() -> None:
    """Write both files, and say how much there is."""
    for path, rows in ((CHATS, list(conversations())), (PAIRS, list(preferences()))):
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        print(f"{path.relative_to(HERE.parents[2])}: {len(rows)} lines")


def conversations() -> Iterator[dict[str, object]]:
    """One question and its answer for each title."""
    for title, manual in titles():
        answer = {"role": "assistant", "content": said(manual)}
        yield {"messages": [asked(title), answer]}


def preferences() -> Iterator[dict[str, object]]:
    """The same questions; a manual that has the section, and one that has not."""
    for title, manual in titles():
        others = [other for other in MANUALS if other != manual]
        wrong = others[draw(f"wrong {title}") % len(others)]
        yield {"prompt": [asked(title)], "chosen": said(manual), "rejected": said(wrong)}


def asked(title: str) -> dict[str, str]:
    """A question about a title; which wording is drawn."""
    return {"role": "user", "content": QUESTIONS[draw(f"wording {title}") % len(QUESTIONS)].format(f'"{title}"')}


def said(manual: str) -> str:
    """An answer that names a manual."""
    return f"It is in {MANUALS[manual]}."


def titles() -> list[tuple[str, str]]:
    """Title and package, in an order of their own."""
    found: dict[str, set[str]] = {}
    for manual in MANUALS:
        with gzip.open(CORPUS / f"{manual}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                found.setdefault(json.loads(line)["text"].partition("\n")[0].strip(), set()).add(manual)
    of_one = {title: next(iter(manuals)) for title, manuals in found.items() if len(manuals) == 1 and is_plain(title)}
    drawn = sorted(of_one.items(), key=lambda row: draw(row[0]))
    return [row for number, row in enumerate(drawn) if sum(manual == row[1] for _, manual in drawn[:number]) < MOST]


def is_plain(title: str) -> bool:
    """Whether a question about it reads like one."""
    return SHORTEST <= len(title) <= LONGEST and title.isascii() and '"' not in title and title[0].isalpha()


def draw(text: str) -> int:
    """A number that is the text's own."""
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


if __name__ == "__main__":
    main()
