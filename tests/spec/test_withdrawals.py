"""What can be withdrawn, and what is said about a file that withdraws nothing of the kind."""

import pytest
from tests.conftest import DATA

from forge.spec.compiled import compile_resource, from_text, to_text
from forge.spec.load import load
from forge.spec.resolve import resolve

DIGEST = "sha256:" + "a" * 64


def withdrawals(entries: str, name: str = "withdrawn") -> str:
    return f"apiVersion: forge/v1\nkind: Withdrawals\nmetadata: {{name: {name}}}\nspec:\n  withdrawn:{entries}\n"


def entry(subject: str, reason: str = "the licence was revoked", more: str = "") -> str:
    return withdrawals(f'\n    - {{subject: "{subject}", reason: "{reason}"{more}}}')


def said_of(*texts: str) -> list[str]:
    loaded = load((f"policies/{number}.yaml", text.encode()) for number, text in enumerate(texts))
    return [str(item) for item in (*loaded.diagnostics, *resolve(loaded.resources, loaded.broken).diagnostics)]


@pytest.mark.parametrize("subject", [DIGEST, "key:" + "0" * 64, "DataRecipe/manuals", "EvalSuite/a-1", "Model/handbook"])
def test_a_digest_a_key_and_three_kinds_can_be_withdrawn_whether_or_not_they_are_there(subject: str) -> None:
    assert said_of(entry(subject)) == []


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("DataRecpie/manuals", "a DataRecpie cannot be withdrawn by its name; did you mean `DataRecipe`?"),
        ("Tokenizer/manuals", "a Tokenizer cannot be withdrawn by its name"),
        ("sha256:abc", "a digest is 64 lower-case hexadecimal digits"),
        ("sha256:" + "A" * 64, "a digest is 64 lower-case hexadecimal digits"),
        ("key:abc", "a key id is 64 lower-case hexadecimal digits"),
        ("Model/", "expected sha256:DIGEST, key:KEYID, DataRecipe/NAME"),
        ("Model/../x", "expected sha256:DIGEST"),
        ("Model/a\\n", "expected sha256:DIGEST"),
        ("manuals", "expected sha256:DIGEST"),
        ("", "expected sha256:DIGEST"),
    ],
)
def test_another_subject_is_refused_at_its_place_with_what_is_expected(subject: str, said: str) -> None:
    (fault,) = said_of(entry(subject))
    assert fault.startswith("policies/0.yaml:6:")
    assert said in fault


def test_an_entry_says_why_once_and_how_service_ends() -> None:
    for empty in ("", "  "):
        (fault,) = said_of(entry(DIGEST, empty))
        assert "a withdrawal says why" in fault
    (fault,) = said_of(withdrawals(f'\n    - {{subject: "{DIGEST}"}}'))
    assert "missing key `reason`" in fault
    (fault,) = said_of(withdrawals(f'\n    - {{subject: "{DIGEST}", reasn: x, reason: y}}'))
    assert "unknown key `reasn`; did you mean `reason`?" in fault
    (fault,) = said_of(entry(DIGEST, more=", serving: halt"))
    assert "`serving` is 'halt', expected 'stop' or 'refuse'" in fault
    (fault,) = said_of(withdrawals(2 * "\n    - {subject: Model/a, reason: x}"))
    assert "Model/a is withdrawn twice" in fault


def test_a_second_file_of_withdrawals_names_the_first() -> None:
    first, second = entry("Model/a"), withdrawals(" []", "more")
    (fault,) = said_of(first, second)
    assert fault.startswith("policies/1.yaml:3:")
    assert "Withdrawals/withdrawn is there already" in fault
    assert "first at policies/0.yaml:1" in fault
    assert len(said_of(first, first)) == 1


def test_a_broken_file_is_not_said_to_refer_to_what_it_withdraws() -> None:
    assert len(said_of(DATA, entry("DataRecipe/gone", ""))) == 1


def test_a_reason_is_read_back_from_the_cache_as_it_was_written() -> None:
    text = entry("Model/a", "two\\nlines, \\u001e and \\u0000 and \\u00e9")
    (located,) = load([("w.yaml", text.encode())]).resources
    compiled = (compile_resource(located.resource),)
    assert from_text(to_text(compiled)) == compiled
