"""Which licence expressions a recipe allows."""

import pytest
from tests.conftest import DATA

from forge.spec.compiled import compile_resource
from forge.spec.licenses import checked_license, license_fault
from forge.spec.load import load
from forge.spec.resolve import resolve

ALLOWED = ["MIT", "CC-BY-SA-3.0", "GPL-2.0-or-later", "LicenseRef-ours", "GPL-2.0-only WITH Classpath-exception-2.0"]


@pytest.mark.parametrize(
    "expression",
    [
        "MIT",
        "mit",
        "GPL-3.0-only OR MIT",
        "MIT AND CC-BY-SA-3.0",
        "GPL-2.0+",
        "LicenseRef-ours",
        "(Apache-2.0 AND MIT) OR (MIT AND CC-BY-SA-3.0)",
        "GPL-2.0-only WITH Classpath-exception-2.0",
    ],
)
def test_what_is_allowed(expression: str) -> None:
    assert license_fault(expression, ALLOWED) is None


@pytest.mark.parametrize(
    ("expression", "kind", "message"),
    [
        ("", "missing", "no licence is named"),
        (" \n", "missing", "no licence is named"),
        ("Apache-2.0", "not_allowed", "'Apache-2.0' is not allowed by `allow_licenses` (MIT, "),
        ("MIT AND Apache-2.0", "not_allowed", "not allowed"),
        ("GPL-2.0-only", "not_allowed", "not allowed"),
        ("MIT WITH Classpath-exception-2.0", "not_allowed", "not allowed"),
        ("public domain", "invalid", "'public domain' is no licence of the SPDX list"),
        ("NOASSERTION", "invalid", "no licence of the SPDX list"),
        ("LicenseRef-two words", "invalid", "no licence of the SPDX list"),
        ("MIT AND", "invalid", "no SPDX expression"),
        ("MIT WITH MIT", "invalid", "no SPDX expression"),
        ("(" * 400, "invalid", "no SPDX expression"),
        ("MIT OR " * 100 + "MIT", "invalid", "longer than 500 characters"),
        ("MIT\0", "invalid", "no SPDX expression"),
    ],
)
def test_what_is_refused_and_why(expression: str, kind: str, message: str) -> None:
    fault = license_fault(expression, ALLOWED)
    assert fault is not None
    assert fault.kind == kind
    assert message in fault.message


def test_without_a_list_any_expression_will_do() -> None:
    assert license_fault("Apache-2.0", None) is None
    assert license_fault("whatever", None) is not None


def test_an_entry_of_the_list_is_one_licence_in_the_spelling_of_spdx() -> None:
    assert checked_license("mit") == "MIT"
    with pytest.raises(ValueError, match="combines licences"):
        checked_license("MIT OR Apache-2.0")


def recipe(allow: str, more: str = "") -> str:
    text = DATA.replace("license: GPL-2.0-or-later", f"license: MIT{more}")
    assert "license: MIT" in text
    return text + f"  allow_licenses: {allow}\n"


def test_a_source_outside_the_list_is_refused_with_its_place() -> None:
    loaded = load([("data.yaml", recipe("[CC-BY-4.0]").encode())])
    assert loaded.diagnostics == ()
    (fault,) = resolve(loaded.resources, loaded.broken).diagnostics
    line = next(number for number, row in enumerate(recipe("[CC-BY-4.0]").splitlines(), start=1) if "license: MIT" in row)
    assert (fault.path, fault.line) == ("data.yaml", line)
    assert "'MIT' is not allowed by `allow_licenses` (CC-BY-4.0): allow it, take the source out, or name" in fault.message


def test_documents_with_licences_of_their_own_are_judged_one_by_one() -> None:
    (located,) = load([("data.yaml", recipe("[CC-BY-4.0]", more=", license_key: licence").encode())]).resources
    assert "refused_licenses" not in compile_resource(located.resource).facts


@pytest.mark.parametrize(
    ("allow", "message"), [("[MIT, Foo]", "'Foo' is no licence of the SPDX list"), ("[MIT OR Zlib]", "combines licences")]
)
def test_a_list_that_names_no_licence_is_refused(allow: str, message: str) -> None:
    (fault,) = load([("data.yaml", recipe(allow).encode())]).diagnostics
    assert message in fault.message
