"""Which spellings of personal data are found, by edition, and what only looks like it."""

import time
from collections import Counter

import pytest

from forge.spec.data_recipe import Pii
from forge.steps.curate.redact import PII_TYPES, redact

ALL = Pii.model_validate(dict.fromkeys(PII_TYPES, True))
SINCE_THE_SECOND = [
    ("jane@corp.com-related", "[EMAIL]-related"),
    ("jane@corp.com- she", "[EMAIL]- she"),
    ("jane@corp.xn--p1ai", "[EMAIL]"),
    ("jane@a.b.c.d.e.f.g.h.i.com", "[EMAIL]"),
    ("555.123.4567", "[PHONE_NUMBER]"),
    ("1-555-123-4567", "[PHONE_NUMBER]"),
    ("0049 30 123456", "[PHONE_NUMBER]"),
    ("+49 171/1234567", "[PHONE_NUMBER]"),
    ("4111.1111.1111.1111", "[CREDIT_CARD]"),
    ("4111111111111111-", "[CREDIT_CARD]-"),
    ("::ffff:8.8.8.8", "[IP_ADDRESS]"),
    ("de89370400440532013000", "[IBAN]"),
    ("de89 3704 0044 0532 0130 00 or", "[IBAN] or"),
    ("GB82-WEST-1234-5698-7654-32", "[IBAN]"),
]
IN_BOTH = [
    ("write jane@corp.com.", "write [EMAIL]."),
    ("8.8.8.8:53", "[IP_ADDRESS]:53"),
    ("DE89 3704 0044 0532 0130 00", "[IBAN]"),
    ("4111 1111 1111 1111.Next", "[CREDIT_CARD].Next"),
    ("3782 822463 10005", "[CREDIT_CARD]"),
    ("+49 (0)30 12345678", "[PHONE_NUMBER]"),
    ("(555) 123-4567", "[PHONE_NUMBER]"),
]
NOBODYS = [
    "react@18.2.0 and @types/node", "::ffff:192.168.0.1", "::ffff:10.0.0.1", "1.234.567.890", "555.123.4567.8", "2024-11-27",
    "ab12cdef0123456789abcdef01234567", "de12345678901234567890123", "gb82-west-1234-5698-7654-33", "4111.1111.1111.1112",
    "1234 5678", "0001 0002 0003", "v8.8.8.8", "ISBN 978-3-16-148410-0", "the ratio 171/1234567",
]  # fmt: skip


@pytest.mark.parametrize(("text", "redacted"), SINCE_THE_SECOND)
def test_the_second_edition_finds_more_spellings_and_the_first_what_it_always_did(text: str, redacted: str) -> None:
    assert redact(text, ALL, Counter(), 2) == redacted
    assert redact(text, ALL, Counter()) != redacted


@pytest.mark.parametrize(("text", "redacted"), IN_BOTH)
def test_what_the_first_edition_finds_the_second_finds(text: str, redacted: str) -> None:
    assert redact(text, ALL, Counter()) == redact(text, ALL, Counter(), 2) == redacted


@pytest.mark.parametrize("text", NOBODYS)
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
    assert redact(text, ALL, Counter(), 2) == text


def test_no_text_makes_the_second_edition_slow() -> None:
    parts = (
        "a" * 200_000,
        "@" + "b." * 50_000,
        "+1 " * 30_000,
        "1:" * 50_000,
        "de12 " * 40_000,
        "ab12-" * 40_000,
        "001 " * 40_000,
    )
    began = time.process_time()
    for part in parts:
        redact(part, ALL, Counter(), 2)
    assert time.process_time() - began < 10
