"""A model of two recipes, from its YAML to a release whose chain holds: what is read of each, and what a change sets off."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DATA, MODEL, ROOT, commit_all

pytestmark = pytest.mark.e2e

STEPS, SEQUENCES, LENGTH = 40, 16, 64
FRACTION = 0.3
PART = f"  mixture: [{{data: DataRecipe/other, fraction: {FRACTION}, max_epochs: 50}}]\n"


def write_mixture(folder: Path) -> None:
    """The small example, whose model reads a second recipe of its own documents too."""
    source = ROOT / "models" / "handbook" / "corpus" / "developers-reference.jsonl.gz"
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        documents = [json.loads(line) for line in lines][60:90]
    (folder / "elsewhere").mkdir()
    text = "".join(json.dumps({"id": item["id"], "text": item["text"]}) + "\n" for item in documents)
    (folder / "elsewhere" / "part.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    other = DATA.replace("name: small", "name: other").replace("corpus/*", "elsewhere/*")
    (folder / "models" / "other.yaml").write_text(other)
    (folder / "models" / "model.yaml").write_text(MODEL + PART)
    commit_all(folder, "a second recipe")


def changes(forge: Callable[..., Any], repository: Path) -> set[str]:
    """What a plan would do, but for what serves."""
    plan = json.loads(forge(repository, "plan", "--format", "json").stdout)
    return {each["id"] for each in plan["actions"] if each["kind"] != "nothing"}


def test_a_model_of_two_recipes_becomes_a_release(repository: Path, forge: Callable[..., Any]) -> None:
    write_mixture(repository)
    assert {"curate/other", "tokenize/other.small", "train/small"} <= changes(forge, repository)
    applied = forge(repository, "apply")
    assert "release/small-local: done in" in applied.stderr
    assert "the chain holds" in forge(repository, "verify", "model/small").stdout
    assert changes(forge, repository) == set()

    results = [json.loads(path.read_text()) for path in repository.glob(".forge/work/*/*/recorded-result.json")]
    (metrics,) = [each["metrics"] for each in results if "mixture_0_tokens" in each["metrics"]]
    assert metrics["tokens"] == STEPS * SEQUENCES * LENGTH
    assert metrics["mixture_0_tokens"] == int(STEPS * SEQUENCES * FRACTION) * LENGTH
    assert 0 < metrics["mixture_0_epochs"] < 50

    other = repository / "models" / "other.yaml"
    other.write_text(other.read_text() + "# a comment\n")
    commit_all(repository)
    assert changes(forge, repository) == set()
    part = repository / "elsewhere" / "part.jsonl.gz"
    rows = gzip.decompress(part.read_bytes()).splitlines(keepends=True)
    part.write_bytes(gzip.compress(b"".join(rows[:-5]), mtime=0))
    commit_all(repository)
    changed = changes(forge, repository)
    assert {"curate/other", "tokenize/other.small", "train/small"} <= changed
    assert not {"curate/small", "tokenizer/small", "tokenize/small.small"} & changed
