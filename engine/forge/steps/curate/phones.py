"""Telephone numbers as they are written within a country: ``030 901820``, ``(415) 555-2671``, ``01 42 68 53 00``.

Without a country's code a telephone number is nothing but digits. So three things have to agree, the cheapest asked first:
1. Its shape: groups of digits with one sign between two, and no digit, letter or further sign on either side. Dates, ranges of
   years, addresses of machines and what begins with a single 0 (decimals, ISBNs) are none. A number that says by a leading 0
   or by brackets that it is one needs two groups; any other needs three, or three digits before six and more.
2. What stands before it: less of a shape is enough behind a word such as "phone"; behind one such as "ISBN" nothing is.
3. libphonenumber: it is a number in use in a named region, with the prefix that people there write.

Invariant: what is found depends on the text and the set of regions alone, and every repetition is bounded. The numbering plans
are those of one version of the library, because they decide what documents say; it is pinned, and refused where it is another.
"""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from forge.errors import StepError

if TYPE_CHECKING:
    import phonenumbers

LIBRARY = "phonenumberslite"
"""The distribution: libphonenumber's numbering plans without its names of places and carriers."""
_VERSION = "9.0.42"
_LONGEST_CONTEXT = 32

_S, _T = " \u00a0\u2009\u202f", "./\\-\u2010-\u2013"
_PLAIN = str.maketrans(dict.fromkeys(_S, " ") | dict.fromkeys("\u2010\u2011\u2012\u2013", "-"))
"""As the library reads them."""
_JOINT = rf"(?:[{_S}][/\-\u2013][{_S}]|[{_S}{_T}])"
_RUN = re.compile(
    rf"[(0-9](?=(?:[{_S}{_T}()]{{0,3}}[0-9]){{5}})"  # six digits, or it is nothing; the class in front makes it fast
    rf"(?:(?<=\()(?<![\w/.+-]\()[0-9]{{2,6}}\){_JOINT}?[0-9]{{1,12}}"
    rf"|(?<=[0-9])(?<![\w+#$€£¥@%/\\*^~-].)(?<![\s0-9(,;]\..)(?<![0-9][:{_S}{_T}'\u2019].)(?<![0-9][{_S}][/\-\u2013][{_S}].)"
    rf"(?:(?<=[18])[ .-]?\([0-9]{{3,5}}\){_JOINT}?[0-9]{{1,12}}|[0-9]{{0,14}}))"
    rf"(?:{_JOINT}[0-9]{{1,12}}){{0,7}}"
    rf"(?!(?:[-_]?(?!x[0-9])\w)|[(]|{_JOINT}[0-9]|[:'\u2019][0-9]|[./][a-z])"
)
_DIGITS = re.compile("[0-9]+")
_SPACED = re.compile(rf"[{_S}][/\-\u2013][{_S}]")
_BETWEEN_NUMBERS = _SPACED, re.compile(rf"(?<!\))[{_S}]"), re.compile("/")
_DAY, _MONTH, _YEAR, _BYTE = (
    "(?:0?[1-9]|[12][0-9]|3[01])",
    "(?:0?[1-9]|1[0-2])",
    "(?:1[0-9]|20)[0-9]{2}",
    "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
)
_NEVER = re.compile(
    r"[0-9]{1,2}([./-])[0-9]{1,2}\1(?:[0-9]{2}|[0-9]{4})(?: [0-9]{1,2})?"  # a day, with an hour behind it
    rf"|{_DAY} {_MONTH} {_YEAR}|(?:[1-9][0-9]{{3}}[./-]|{_YEAR} ){_MONTH}[./ -]{_DAY}(?: [0-9]{{1,2}})?"
    rf"|{_YEAR} ?[/-] ?(?:1[0-9]|20)?[0-9]{{2}}"
    rf"|{_BYTE}(?:\.{_BYTE}){{3}}"
)
_AMOUNT = re.compile(r"[0-9]{1,4}(?:\.[0-9]{3})+|[0-9]{1,3}(?: 000)+")
_ZIP_PLUS_4 = re.compile("[0-9]{5}-[0-9]{4}")
_AMOUNT_BEFORE = re.compile(r"(?:[€$£¥]|\b(?:EUR|USD|GBP|CHF|Fr\.?))[ \u00a0]?$|[0-9],$")
_AMOUNT_AFTER = re.compile(
    r"[ \u00a0\u202f]?(?:[€$£¥%‰°²³]|(?:EUR|USD|GBP|CHF|Euros?|euros?|dollars?|[kMGT]i?[Bb]|[kcm]?m|k?g|bytes?)\b)"
    r"|,[0-9]{1,3}(?![0-9])"
)
_OF_A_PHONE = re.compile(
    r"(?<![^\W\d_])(?:tel|tél|tlf|tfno|mob|cell|call|dial|fon|ruf|handy|sms|appel|portable)(?![^\W\d_])"
    r"|phone|t[eé]l[eé](?:f|ph)|rufnummer|(?<![^\W\d_])(?:anruf|llam|chiam|fax|mobil|m[oó]vil)|celular|cellulare|whatsapp|[☎☏📞📱]",
    re.IGNORECASE,
)
"""What stands some words before a telephone number, in the languages of the regions that most people ask for."""
_OF_A_CODE = re.compile(
    r"(?<![^\W\d_])(?:isbn|issn|ean|gtin|upc|sku|doi|pmid|arxiv|iban|bic|blz|siren|siret|rfc|cve|version|clause|section|dfars"
    r"|article|order|part|serial|invoice|account|acct|patent|konto|art(?:ikel)?"
    r"|(?:konto|rechnungs|bestell|serien|artikel|auftrags|kunden)-?(?:nummer|nr))(?:-1[03])?(?![^\W\d_])"
    r"(?:[ \u00a0.-]{0,2}(?:no|nr|num(?:ber|mer|ero|éro)?|n[°º]|id|is|#))?[ \u00a0:#=.\"'-]{0,4}$",
    re.IGNORECASE,
)
"""What stands right before a number that is something else."""


def national_numbers(text: str, regions: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Where numbers of these regions stand, from first to last: begin and end."""
    for run in _RUN.finditer(text):
        yield from _within(text, *run.span(), regions, _BETWEEN_NUMBERS)


def check_library() -> None:
    """Raise StepError where libphonenumber is not installed, or is not the version that what is found depends on."""
    try:
        import phonenumbers
    except ImportError as error:
        raise StepError(f"pii.phone_regions needs the package {LIBRARY}, which is not installed: install the locks") from error
    if phonenumbers.__version__ != _VERSION:
        found = f"libphonenumber {phonenumbers.__version__}, expected {_VERSION}"
        raise StepError(f"pii.phone_regions: found {found}: install the locked {LIBRARY}")


def _within(
    text: str, begin: int, end: int, regions: tuple[str, ...], signs: tuple[re.Pattern[str], ...]
) -> Iterator[tuple[int, int]]:
    """The run itself where it is a number; else the numbers that it holds beside others, as in ``94103 415-555-2671``."""
    if _is_number(text, begin, end, regions):
        yield begin, end
    elif signs:
        parts = list(_between(signs[0], text, begin, end))
        for part in parts:
            if len(parts) == 1 or signs[0] is _SPACED or len(_DIGITS.findall(text, *part)) > 2:  # it keeps itself together
                yield from _within(text, *part, regions, signs[1:])


def _between(sign: re.Pattern[str], text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    for found in sign.finditer(text, begin, end):
        yield begin, found.start()
        begin = found.end()
    yield begin, end


def _is_number(text: str, begin: int, end: int, regions: tuple[str, ...]) -> bool:
    written = text[begin:end].translate(_PLAIN)
    groups = _DIGITS.findall(written)
    digits = "".join(groups)
    if not 6 <= len(digits) <= 15 or groups[0] == "0" or digits.startswith("00") or _NEVER.fullmatch(written):
        return False
    before = text[max(0, begin - _LONGEST_CONTEXT) : begin].rpartition("\n")[2]
    if _OF_A_CODE.search(before):
        return False
    is_marked = digits[0] == "0" or written[0] == "("
    is_announced = _OF_A_PHONE.search(before) is not None
    if not is_marked and (_AMOUNT_BEFORE.search(before) or _AMOUNT_AFTER.match(text, end)):
        return False
    if is_announced or _has_shape(written, groups, is_marked):
        return any(_is_valid(digits, None if is_marked else written, region) for region in regions)
    if len(groups) == 1 and is_marked and len(digits) >= 10:
        return any(_is_mobile(digits, region) for region in regions)
    return False


def _has_shape(written: str, groups: list[str], is_marked: bool) -> bool:
    """Whether it looks like a telephone number wherever it stands."""
    size = sum(map(len, groups))
    if is_marked:
        least = 8 if written[0] == "(" or len(groups) > 2 else 9
        return len(groups) > 1 and size >= least and not _ZIP_PLUS_4.fullmatch(written)
    if len(groups) == 2:
        return "." not in written and len(groups[0]) == 3 and len(groups[1]) >= 6
    if "." in written and re.search("[ /-]", written):  # a pair of decimals
        return False
    return len(groups) > 2 and size >= 8 and " / " not in written and not _AMOUNT.fullmatch(written)


@lru_cache(1 << 14)
def _is_valid(digits: str, written: str | None, region: str) -> bool:
    """Whether all of it is one number of the region; ``written``: also in groups that are usual there."""
    import phonenumbers

    if _found(digits, region) is None:
        return False
    return written is None or _match(written, region, phonenumbers.Leniency.STRICT_GROUPING) is not None


@lru_cache(1 << 14)
def _is_mobile(digits: str, region: str) -> bool:
    """People write these, more than others, as digits alone; most codes that begin with a 0 are none."""
    import phonenumbers

    found = _found(digits, region)
    return found is not None and phonenumbers.number_type(found) == phonenumbers.PhoneNumberType.MOBILE


def _found(digits: str, region: str) -> "phonenumbers.PhoneNumber | None":
    import phonenumbers

    return _match(digits, region, phonenumbers.Leniency.VALID) if _plan(region).fullmatch(digits) else None


def _match(text: str, region: str, leniency: int) -> "phonenumbers.PhoneNumber | None":
    import phonenumbers

    for match in phonenumbers.PhoneNumberMatcher(text, region, leniency):
        return match.number if (match.start, match.end) == (0, len(text)) else None
    return None


@cache
def _plan(region: str) -> re.Pattern[str]:
    """What the digits of every number of a region match, and few others: a hundredth of the time that the library takes."""
    import phonenumbers

    plan = phonenumbers.PhoneMetadata.metadata_for_region(region)
    numbers = plan.general_desc.national_number_pattern if plan and plan.general_desc else None
    if plan is None or numbers is None or plan.national_prefix_transform_rule:  # digits move when they are read
        return _DIGITS
    return re.compile(f"(?:{plan.country_code})?(?:{plan.national_prefix_for_parsing or ''})?(?:{numbers})")
