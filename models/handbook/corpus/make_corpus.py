r"""Debian's manuals -> the example's corpus and its held-out evaluation data.

The command, in an empty folder and from the root of this repository:

    apt-get download debian-handbook debian-policy debian-reference-en developers-reference \
        installation-guide-amd64 harden-doc aptitude-doc-en maint-guide debian-edu-doc-en debian-kernel-handbook \
        debian-history debmake-doc
    for package in *.deb; do dpkg -x "$package" unpacked; done
    python models/handbook/corpus/make_corpus.py unpacked

It writes models/handbook/corpus/SOURCE.jsonl.gz and evals/tasks/handbook_{cloze,bpb}.jsonl. Equal packages give equal
files (no times, sorted keys; the compressed bytes also depend on the machine's zlib). It fails rather than writes when
text of an evaluation occurs in the corpus. Host names of Debian's archives and mirrors and of languages' package
registries are replaced by mirror.example.org (sections.py says which). It needs lxml, which the cpu profile installs.
"""

import gzip
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path

import heldout
from sections import MANUALS, documents_of

CORPUS = Path(__file__).resolve().parent
TASKS = CORPUS.parents[2] / "evals" / "tasks"


def main(unpacked: Path) -> None:
    """Read the manuals, hold some documents out, check, write, and say how much there is."""
    documents = [document for manual in MANUALS for document in documents_of(manual, unpacked)]
    twice = len(documents) - len({document.id for document in documents})
    if twice:
        raise SystemExit(f"{twice} documents share their id with another")
    corpus, held_out = heldout.split(documents)
    cloze, rolling = heldout.cloze(held_out), heldout.rolling(held_out)
    heldout.check(corpus, [document.text for document in held_out])  # every item is a part of one of these
    for manual in MANUALS:
        rows = [asdict(document) for document in corpus if document.source == manual.source]
        path = CORPUS / f"{manual.source}.jsonl.gz"
        path.write_bytes(_compressed(_lines(rows)))
        characters = sum(len(row["text"]) for row in rows)
        print(f"{path.name}: {len(rows)} documents, {characters} characters, {path.stat().st_size} bytes")
    for name, items in (("handbook_cloze", cloze), ("handbook_bpb", rolling)):
        path = TASKS / f"{name}.jsonl"
        path.write_bytes(_lines(items))
        print(f"{path.name}: {len(items)} items, {path.stat().st_size} bytes")
    print(f"held out: {len(held_out)} documents, {sum(len(document.text) for document in held_out)} characters")


def _lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()


def _compressed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        file.write(data)
    return buffer.getvalue()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: make_corpus.py FOLDER_WITH_UNPACKED_PACKAGES")
    main(Path(sys.argv[1]))
