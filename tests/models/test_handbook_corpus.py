"""The example's corpus as committed: what is asked is not in it, licences are told, no archive is named."""

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from forge.spec.document import read_documents

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "models" / "handbook" / "corpus"
TASKS = ROOT / "evals" / "tasks"
sys.path.insert(0, str(CORPUS))
heldout = pytest.importorskip("heldout")
sections = pytest.importorskip("sections", reason="lxml comes with the cpu profile")


def recipe() -> dict[str, dict[str, Any]]:
    """File -> its entry in data.yaml."""
    documents, diagnostics = read_documents("data.yaml", (ROOT / "models" / "handbook" / "data.yaml").read_bytes())
    assert not diagnostics
    return {entry["path"]: entry for entry in documents[0].value["spec"]["sources"]}


def rows(path: Path) -> list[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode().splitlines()]


def test_every_file_has_an_entry_with_the_licence_of_its_documents_and_the_copyright_file() -> None:
    files = {path.relative_to(ROOT).as_posix(): path for path in CORPUS.glob("*.jsonl.gz")}
    assert set(files) == set(recipe())
    for name, entry in recipe().items():
        found = rows(files[name])
        package = files[name].name.removesuffix(".jsonl.gz")
        assert {row["license"] for row in found} == {entry["license"]}
        assert {row["source"] for row in found} == {package}
        assert "opyright" in (CORPUS / "licenses" / f"{package}.copyright.txt").read_text(encoding="utf-8")
        assert package in entry["origin"]


def test_no_evaluation_item_occurs_in_the_corpus() -> None:
    documents = [sections.Document(**row) for path in CORPUS.glob("*.jsonl.gz") for row in rows(path)]
    cloze, rolling = rows(TASKS / "handbook_cloze.jsonl"), rows(TASKS / "handbook_bpb.jsonl")
    heldout.check(documents, [row["text"] for row in rolling])
    heldout.check(documents, [f"{row['context']} {row['choices'][row['gold']]}" for row in cloze])
    with pytest.raises(SystemExit, match="occurs in the corpus"):
        heldout.check(documents, [documents[7].text])


def test_no_package_archive_or_registry_is_named() -> None:
    registry = re.compile(
        r"\b(?:deb|ftp(?:\.\w\w)?|security|snapshot|archive)[.]debian[.]org|pypi[.]org|npmjs[.](?:com|org)", re.IGNORECASE
    )
    for path in [*CORPUS.glob("*.jsonl.gz"), *TASKS.glob("handbook_*.jsonl")]:
        named = [row["id"] for row in rows(path) if registry.search(json.dumps(row))]
        assert not named, path.name


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("deb.", "org"),
        ("ftp.ch.", "org"),
        ("cdn-fastly.deb.", "org"),
        ("FTP2.de.", "Org"),
        ("httpredir.", "org"),
        ("http.us.", "org"),
    ],
)
def test_an_archive_becomes_the_example_mirror_and_a_website_stays(prefix: str, suffix: str) -> None:
    host = f"{prefix}debian.{suffix}"
    text = f"deb http://{host}/debian bookworm main, see https://www.debian.{suffix}/doc and {host}."
    expected = (
        f"deb http://mirror.example.org/debian bookworm main, see https://www.debian.{suffix}/doc and mirror.example.org."
    )
    assert sections.without_archives(text) == expected
