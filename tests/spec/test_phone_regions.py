"""Regions whose telephone numbers are looked for: known ones, in any order, and a wrong name is told what was meant."""

import phonenumbers
import pytest
from tests.plan.full import desired_from, full_documents, own_keys

from forge.spec.load import load
from forge.spec.phone_regions import REGIONS
from forge.spec.schema import schemas


def recipe(pii: str) -> bytes:
    return (
        "apiVersion: forge/v1\nkind: DataRecipe\nmetadata: {name: x}\nspec:\n"
        f"  sources: [{{path: a/*.txt, license: MIT, origin: us}}]\n  split: {{validation_fraction: 0.1}}\n  pii: {{{pii}}}\n"
    ).encode()


def faults(pii: str) -> list[str]:
    return [str(fault) for fault in load([("data.yaml", recipe(pii))]).diagnostics]


def test_the_regions_are_those_of_the_library() -> None:
    assert REGIONS == phonenumbers.SUPPORTED_REGIONS


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("[UK]", "there is no numbering plan of 'UK'; did you mean `GB`?"),
        ("[US, de]", "there is no numbering plan of 'de'; did you mean `DE`?"),
        ("[FRA]", "there is no numbering plan of 'FRA'; near it: FR"),
        ("[Germany]", "there is no numbering plan of 'Germany'; expected a country's two letters (ISO 3166), such as DE or US"),
        ('["+49"]', "there is no numbering plan of '+49'; expected a country's two letters"),
        ("[DE, DE]", "a region stands twice"),
    ],
)
def test_a_wrong_region_is_told_what_was_meant(written: str, message: str) -> None:
    (fault,) = faults(f"phone_numbers: true, phone_regions: {written}")
    assert fault.startswith(f"data.yaml:7:45: `phone_regions`: {message}"), fault


def test_regions_without_numbers_are_refused() -> None:
    (fault,) = faults("phone_regions: [DE]")
    assert "`phone_regions` adds to what `phone_numbers` finds: write `phone_numbers: true` beside it" in fault


def test_the_order_of_regions_is_no_identity_and_none_is_no_region() -> None:
    keys = []
    for regions in (["US", "DE"], ["DE", "US"], [], None, ["DE"]):
        documents = full_documents()
        if regions is not None:
            documents["DataRecipe/a"]["spec"]["pii"]["phone_regions"] = regions
        keys.append(own_keys(desired_from(documents))["curate/a"])
    assert keys[0] == keys[1]
    assert keys[2] == keys[3]
    assert len(set(keys)) == 3


def test_editors_are_told_the_regions() -> None:
    field = schemas()["DataRecipe"]["$defs"]["Pii"]["properties"]["phone_regions"]
    assert field["items"]["enum"] == sorted(REGIONS)
