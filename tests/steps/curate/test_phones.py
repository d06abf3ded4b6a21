"""National telephone numbers: which are found in which region, what only looks like one, and what the search may not do."""

import json
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from random import Random

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat, PhoneNumberType
from tests.steps.conftest import MakeRun
from tests.steps.test_curate import FILL, everything, rows, source

from forge.errors import StepError
from forge.spec.data_recipe import Pii
from forge.steps import curate
from forge.steps.curate import phones
from forge.steps.curate.phones import LIBRARY, national_numbers
from forge.steps.curate.redact import PII_TYPES, redact
from forge.steps.curate.survey import Samples

SIX = ("DE", "ES", "FR", "GB", "IT", "US")
OTHERS = ("AT", "AU", "BE", "BR", "CH", "CZ", "DK", "IN", "JP", "MX", "NL", "NO", "PL", "PT", "SE", "SG")
HIDDEN = "[PHONE_NUMBER]"
FOUND = {
    "DE": (
        "030 901820", "(0221) 4710-123", "0221/4710-123", "0221 / 4710-123", "0170 1234567", "01701234567", "0221 4710-0",
        "02 21/47 10-1 23", "030\u00a0901820", "0221\u20134710123",
    ),
    "US": (
        "(415) 555-2671", "(415)555-2671", "415-555-2671", "415 555 2671", "415.555.2671", "1-415-555-2671", "1 (415) 555-2671",
        "415 5552671", "416-555-0134",
    ),
    "GB": ("020 7946 0958", "(020) 7946 0958", "0161 496 0000", "07911 123456", "07911123456", "028-9649-6000"),
    "FR": (
        "01 42 68 53 00", "01.42.68.53.00", "01-42-68-53-00", "06 12 34 56 78", "0612345678",
        "01\u202f42\u202f68\u202f53\u202f00",
    ),
    "IT": ("06 6982 1234", "02 12345678", "055/2768325", "333 123 4567", "333 1234567", "347-1234567"),
    "ES": ("912 345 678", "91 234 56 78", "912 34 56 78", "612 345 678", "91-234-56-78"),
}  # fmt: skip
BEHIND_A_WORD = {
    "DE": ("Tel. 030901820", "Fax: 0306406152"), "US": ("call 4155552671", '"phone_number": "4155552671"'),
    "FR": ("tél. 0142685300",), "IT": ("cell. 3331234567",), "ES": ("móvil 612345678", "teléfono: 912.345.678"),
    "SG": ("Telephone 6123 4567",),
}  # fmt: skip
BESIDE_OTHERS = [
    ("DE", "030 901820, 0221 4710123", f"{HIDDEN}, {HIDDEN}"),
    ("DE", "030 901820 / 0221 4710123", f"{HIDDEN} / {HIDDEN}"),
    ("DE", "Tel.030 901820.", f"Tel.{HIDDEN}."),
    ("DE", "Berlin (030 901820)", f"Berlin ({HIDDEN})"),
    ("DE", "17,030 901820,50667", f"17,{HIDDEN},50667"),
    ("US", "San Francisco, CA 94103 415-555-2671", f"San Francisco, CA 94103 {HIDDEN}"),
    ("US", "CA 94103 (415) 555-2671", f"CA 94103 {HIDDEN}"),
    ("US", "(415) 555-2671 24 hours a day", f"{HIDDEN} 24 hours a day"),
    ("US", "415-555-2671/415-555-2672", f"{HIDDEN}/{HIDDEN}"),
    ("US", "415-555-2671x12", f"{HIDDEN}x12"),
    ("ES", "Ana,612 345 678,Madrid", f"Ana,{HIDDEN},Madrid"),
]
NOBODYS = [
    "169.072 238.873", "164.072 153.651",  # places on a page
    # times
    "2024-01-15", "2024-01-15 08:30:00", "2024 01 15", "01.02.2024", "15/01/2024", "15 01 2024", "1914-1918", "2014 - 2018",
    "08:30:00", "10:00-12:00", "19991231235959", "1700000000",
    # amounts
    "12.345.678", "912.345.678 habitantes", "1 234 567,89 EUR", "912 345 678 €", "$415 555 2671", "1,415 555 2671",
    "6 000 000 000", "n <= 400 000 000",
    "3.14159265", "0.123456789", "347.1234567", "41.890251, 12.492373", "64 512 128", "100-200-300", "5000-6000",
    # codes
    "ISBN 978-3-16-148410-0", "978-3-16-148410-0", "0-306-40615-2", "ISBN-10: 0306406152", "ISBN 0 306 40615 2", "0306406152",
    "036000291452", "DE89 3704 0044 0532 0130 00", "4111 1111 1111 1111", "0000-0002-1825-0097", "10.1000/182", "0815-4711",
    "Artikel-Nr. 0221 4710123", "Konto 0123 456 789", "Kundennummer: 0221 4710123", "Clause 252.227-7013", "MA 02110-1301",
    "#0170 1234567", "1234567890", "4155552671", "000123 000456", "0001 0002 0003", "pp. 211-227 (2003)",
    "RFC 2616 2617 2818",
    # machines
    "192.168.100.200", "8.8.8.8", "v10.2.1.1234", "1.2.3.4.5", "2001:db8::1", "00:1A:2B", "8080 8443 9090",
    "550e8400-e29b-41d4-a716-446655440000", "0x0123456789", "ab0170123456789", "https://x.org/030/901820", "041_030_901820",
    # more digits, or letters, on a side
    "A-0221-4710-123", "0221-4710-123-A", "0221-4710123.pdf", "415-555-2671-8", "20-415-555-2671",
    "012 345 678 901 234 567 890",
    "01 02 03 04 05 06 07 08 09 10", "1 2 3 4 5 6 7 8 9", "50667", "0, 30, 901820",
]  # fmt: skip


def hidden(text: str, *regions: str) -> str:
    found, end = [], 0
    for begin, next_end in national_numbers(text, regions):
        found.append(text[end:begin])
        end = next_end
    return HIDDEN.join([*found, text[end:]])


@pytest.mark.parametrize(("region", "number"), [(region, number) for region, numbers in FOUND.items() for number in numbers])
def test_numbers_as_they_are_written_in_a_region_are_found(region: str, number: str) -> None:
    assert hidden(f"It is {number}, or {number}.\n{number}", region) == f"It is {HIDDEN}, or {HIDDEN}.\n{HIDDEN}"


@pytest.mark.parametrize(("region", "text"), [(region, text) for region, texts in BEHIND_A_WORD.items() for text in texts])
def test_less_of_a_shape_is_enough_behind_a_word(region: str, text: str) -> None:
    found = hidden(text, region)
    assert HIDDEN in found
    assert not any(sign.isdigit() for sign in found)
    bare = "".join(sign for sign in text if sign.isdigit() or sign in " .").strip(" .")
    assert hidden(bare, region) == bare


@pytest.mark.parametrize(("region", "text", "expected"), BESIDE_OTHERS)
def test_a_number_beside_others_is_found_alone(region: str, text: str, expected: str) -> None:
    assert hidden(text, region) == expected


@pytest.mark.parametrize("text", NOBODYS)
def test_what_only_looks_like_a_number_stays(text: str) -> None:
    assert hidden(f"See {text} there", *SIX, *OTHERS) == f"See {text} there"
    assert hidden(text, *SIX, *OTHERS) == text


@pytest.mark.parametrize(
    ("region", "text"),
    [
        ("US", "030 901820"),
        ("DE", "415-555-2671"),
        ("DE", "01 42 68 53 00"),
        ("FR", "020 7946 0958"),
        ("GB", "20 7946 0958"),  # without the 0 that people there write
        ("GB", "07700 900123"),  # kept for films
        ("ES", "333 123 4567"),
        ("IT", "912 345 678"),
    ],
)
def test_a_number_of_another_region_stays(region: str, text: str) -> None:
    assert hidden(text, region) == text


def test_nothing_is_looked_for_without_a_region() -> None:
    text = "030 901820 and 01 42 68 53 00"
    rules = dict.fromkeys(PII_TYPES, True)
    assert redact(text, Pii.model_validate(rules), Counter(), 2) == text
    found = Counter[str]()
    both = redact(text, Pii.model_validate({**rules, "phone_regions": ["FR", "DE"]}), found)
    assert (both, found) == (f"{HIDDEN} and {HIDDEN}", {"phone_numbers": 2})


@pytest.mark.parametrize("edition", [1, 2])
def test_other_kinds_come_first_and_numbers_with_a_countrys_code_count_as_ever(edition: int) -> None:
    text = "+49 30 901820, 030 901820, DE89 3704 0044 0532 0130 00, 4111 1111 1111 1111, 8.8.8.8"
    found = Counter[str]()
    rules = Pii.model_validate({**dict.fromkeys(PII_TYPES, True), "phone_regions": list(SIX)})
    assert redact(text, rules, found, edition) == f"{HIDDEN}, {HIDDEN}, [IBAN], [CREDIT_CARD], [IP_ADDRESS]"
    assert found == {"phone_numbers": 2, "ibans": 1, "credit_cards": 1, "ip_addresses": 1}


def test_every_region_s_own_examples_are_found_behind_a_word() -> None:
    """All that libphonenumber knows, fixed and mobile, but those of five digits and less, and three spellings."""
    missed = {}
    for region in phonenumbers.SUPPORTED_REGIONS:
        for kind in (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE):
            example = phonenumbers.example_number_for_type(region, kind)
            written = phonenumbers.format_number(example, PhoneNumberFormat.NATIONAL) if example else ""
            if sum(sign.isdigit() for sign in written) > 5 and hidden(f"tel. {written}", region) != f"tel. {HIDDEN}":
                missed[written] = region
    brackets = {"(06 1) 234 5678": "HU", "(0-612) 34567": "LT", "(0-312) 34567": "LT", "(8 12) 34-56-78": "TM"}
    assert missed == brackets | {"(2) 2123 4567": "CL", "75.12.34": "NC", "20.12.34": "NC"}


def test_the_cheap_look_at_the_digits_refuses_nothing_that_the_library_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(7)
    numbers = [str(random.randrange(10**6, 10**11)).rjust(random.choice([7, 9, 10, 11]), "0") for _ in range(400)]
    with_it = [phones._found(number, region) for number in numbers for region in SIX]
    monkeypatch.setattr(phones, "_plan", lambda region: phones._DIGITS)
    assert [phones._found(number, region) for number in numbers for region in SIX] == with_it
    assert sum(found is not None for found in with_it) > 20


@given(st.text(st.sampled_from("0123456789 ()-./+,\u00a0\nTel")), st.permutations(SIX))
def test_what_is_found_are_digits_in_order_whatever_the_order_of_regions(text: str, regions: list[str]) -> None:
    found = list(national_numbers(text, tuple(regions)))
    assert found == list(national_numbers(text, SIX))
    ends = [place for span in found for place in span]
    assert ends == sorted(ends)
    for begin, end in found:
        assert text[begin] in "(0123456789"
        assert text[end - 1].isdigit()
        assert not text[begin - 1 : begin].isdigit()
        assert not text[end : end + 1].isdigit()


def test_no_text_makes_the_search_slow() -> None:
    parts = ("1" * 200_000, "0 " * 100_000, "(" * 200_000, "(12) " * 40_000, "012." * 50_000, "0221 / " * 30_000)
    began = time.process_time()
    for part in parts:
        hidden(part, *SIX)
    assert time.process_time() - began < 10


def test_a_curation_replaces_and_counts_them_and_shows_none(make_run: MakeRun, tmp_path: Path) -> None:
    parameters = {
        "sources": [{}],
        "pii": {"phone_numbers": True, "phone_regions": ["DE", "US"]},
        "dedup": {"exact": True},
        "split": {"validation_fraction": 0.5},
        "edition": 2,
    }
    texts = ["Ring 030 901820 or 212 555 0123", "Ring 030 901821 or 212 555 0123", "Ring 01 42 68 53 00"]
    run = make_run("curate", parameters, {"source-0": source(tmp_path / "s", rows(texts) + FILL)})
    curate.run(run)
    found = everything(run.product("documents"))
    assert (found["d0"], found["d2"]) == (f"Ring {HIDDEN} or {HIDDEN}", texts[2])
    assert "d1" not in found  # the same once the numbers are placeholders
    report = (run.product("report") / "report.json").read_text()
    assert json.loads(report)["personal_data_replaced"] == {"phone_numbers": 2}
    survey = next(run.byproduct("survey").iterdir()).read_text()
    assert "901820" not in report + survey
    assert "901821" not in report + survey


def test_samples_of_what_was_removed_hide_numbers_of_the_recipes_regions() -> None:
    samples = Samples()
    samples.add("rule", 0, "name", "Ring 030 901820")
    assert samples.finish()["rule"][0].excerpt == "Ring 030 901820"
    assert samples.finish(["DE"])["rule"][0].excerpt == f"Ring {HIDDEN}"


def test_another_version_of_the_library_is_refused(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert version(LIBRARY) == phonenumbers.__version__
    monkeypatch.setattr(phonenumbers, "__version__", "8.0.0")
    pii = {"phone_numbers": True, "phone_regions": ["DE"]}
    parameters = {"sources": [{}], "pii": pii, "split": {"validation_fraction": 0.5}}
    run = make_run("curate", parameters, {"source-0": source(tmp_path / "s", FILL)})
    with pytest.raises(StepError, match=r"found libphonenumber 8\.0\.0, expected [0-9.]+: install the locked phonenumberslite"):
        curate.run(run)
    del parameters["pii"]
    curate.run(make_run("curate", parameters, {"source-0": source(tmp_path / "t", FILL)}))
