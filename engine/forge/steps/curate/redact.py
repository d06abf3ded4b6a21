"""Personal data -> fixed placeholders, counted and never shown.

datatrove's PIIFormatter cycles through replacements, so that its output depends on the order of documents; these
placeholders are fixed. Every repetition in the patterns is bounded, so that no text makes them slow. Only IP addresses
that can belong to somebody are replaced: private, loopback and documentation ranges (192.168.0.1, 2001:db8::1) teach
something and harm nobody.

Invariant: the patterns of an edition never change, for they shape what recipes of that edition hold; better ones are another
edition (docs/data.md). What ``phone_regions`` adds (``phones``) is the same in all of them.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from forge.spec.data_recipe import Pii
from forge.steps.curate.phones import national_numbers


@dataclass(frozen=True)
class _Kind:
    name: str
    """The field of ``Pii`` that switches it on."""
    placeholder: str
    pattern: re.Pattern[str]
    is_personal: Callable[[str], bool]


def _is_public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    in_use = parsed.version == 4 or int(parsed) >> 125 == 1  # IPv6: 2000::/3 is all that is assigned
    return in_use and parsed.is_global


def _is_public_or_mapped(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return _is_public(address if mapped is None else str(mapped))


def _is_number(text: str) -> bool:
    return 8 <= sum(character.isdigit() for character in text) <= 15  # ITU-T E.164


def _is_iban(text: str) -> bool:
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(sign, 36)) for sign in compact[4:] + compact[:4])) % 97 == 1  # ISO 7064


def _is_iban_as_written(text: str) -> bool:
    """Spellings that other codes have too (lower case, hyphens) count where the length is that of the country's accounts."""
    compact = text.replace("-", " ").replace(" ", "").upper()
    if text == text.upper() and "-" not in text:
        return _is_iban(text)
    return _IBAN_LENGTHS.get(compact[:2]) == len(compact) and _is_iban(compact)


def _is_card(text: str) -> bool:
    digits = [int(sign) for sign in text if sign.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0  # Luhn


_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in (
        line.split(":")
        for line in (
            "15:NO", "16:BE", "18:DK FI FK FO GL NL SD", "19:MK SI", "20:AT BA EE KZ LT LU MN XK", "21:CH HR LI LV",
            "22:BG BH CR DE GB GE IE ME RS VA", "23:AE GI IL IQ OM SO TL", "24:AD CZ ES MD PK RO SA SE SK TN VG", "25:LY PT ST",
            "26:IS TR", "27:BI DJ FR GR IT MC MR SM", "28:AL AZ BY CY DO GT HN HU LB NI PL SV", "29:BR EG PS QA UA",
            "30:JO KW MU YE", "31:MT SC", "32:LC", "33:RU",
        )
    )
    for country in countries.split()
}  # fmt: skip
"""The IBAN registry's (ISO 13616)."""


_FIRST = (
    _Kind(
        "emails",
        "[EMAIL]",
        re.compile(r"(?<!\w)[\w.+%'-]{1,64}@(?:\w(?:[\w-]{0,61}\w)?\.){1,8}[A-Za-z]{2,24}(?![\w-])"),
        lambda _: True,
    ),
    _Kind(
        "ip_addresses",
        "[IP_ADDRESS]",
        re.compile(r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]))"),
        _is_public,
    ),
    _Kind(
        "ibans",
        "[IBAN]",
        re.compile(r"(?<!\w)[A-Z]{2}[0-9]{2}(?:(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?|[A-Z0-9]{11,30})(?!\w)"),
        _is_iban,
    ),
    _Kind(
        "credit_cards",  # begins as those of Visa, Mastercard, American Express, Discover, Diners Club, JCB or UnionPay do
        "[CREDIT_CARD]",
        re.compile(
            r"(?<![\w+-])(?<![0-9]\.)(?=4|5[1-5]|2[2-7]|3[04-9]|6[0245])(?:[0-9]{13,19}"
            r"|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5})(?![\w-])"
        ),
        _is_card,
    ),
    _Kind(
        "phone_numbers",
        "[PHONE_NUMBER]",
        re.compile(
            r"(?<![\w+.-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"
            r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}-\d{3}-\d{4})(?![\w-])"
        ),
        _is_number,
    ),
)


_SECOND = (
    _Kind(
        "emails",
        "[EMAIL]",
        re.compile(
            r"(?<!\w)[\w.+%'-]{1,64}@(?:\w(?:[\w-]{0,61}\w)?\.){1,16}(?:xn--[a-z0-9-]{1,58}[a-z0-9]|[A-Za-z]{2,24})(?![^\W_])"
        ),
        lambda _: True,
    ),
    _Kind(
        "ip_addresses",
        "[IP_ADDRESS]",
        re.compile(
            r"(?<![\w.:])(?:(?:[0-9A-Fa-f]{0,4}:){2,6}(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)"
            r"|(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]))"
        ),
        _is_public_or_mapped,
    ),
    _Kind(
        "ibans",
        "[IBAN]",
        re.compile(
            r"(?<!\w)(?:[A-Z]{2}[0-9]{2}(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?"
            r"|[a-z]{2}[0-9]{2}(?: [0-9]{4}){2,7}(?: [0-9]{1,3})?"
            r"|[A-Za-z]{2}[0-9]{2}(?:(?:-[A-Za-z0-9]{4}){2,7}(?:-[A-Za-z0-9]{1,3})?|[A-Za-z0-9]{11,30}))(?!\w)"
        ),
        _is_iban_as_written,
    ),
    _Kind(
        "credit_cards",
        "[CREDIT_CARD]",
        re.compile(
            r"(?<![\w+-])(?<![0-9]\.)(?=4|5[1-5]|2[2-7]|3[04-9]|6[0245])(?:[0-9]{13,19}"
            r"|[0-9]{4}([ .-])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?|[0-9]{4}([ .-])[0-9]{6}\2[0-9]{4,5})(?!\w|-\w|\.\d)"
        ),
        _is_card,
    ),
    _Kind(
        "phone_numbers",
        "[PHONE_NUMBER]",
        re.compile(
            r"(?<![\w+.-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:/\d{2,4}|[ .-]?\d{2,4})(?:[ .-]?\d{2,4}){0,3}"
            r"|00[1-9]\d{0,2}[ -]\d{1,4}(?:[ /-]?\d{2,4}){1,4}"
            r"|(?:1[ .-])?\(\d{3}\) ?\d{3}[ .-]\d{4}|(?:1[ .-])?\d{3}-\d{3}-\d{4}"
            r"|(?:1\.)?[2-9]\d{2}\.\d{3}\.\d{4}(?!\.\d))(?!-?\w)"
        ),
        _is_number,
    ),
)
_KINDS = {1: _FIRST, 2: _SECOND}
"""By edition."""


PII_TYPES = tuple(kind.name for kind in _FIRST)
"""The fields of ``Pii``, in the order in which they are replaced."""


def redact(text: str, rules: Pii, replaced: Counter[str], edition: int = 1) -> str:
    """The text with placeholders; adds to ``replaced`` how many of each type there were."""
    for kind in _KINDS[edition]:
        if getattr(rules, kind.name):
            text = kind.pattern.sub(lambda match, kind=kind: _placeholder(match[0], kind, replaced), text)  # type: ignore[misc]
    return _without_national_numbers(text, rules, replaced) if rules.phone_regions else text


def _without_national_numbers(text: str, rules: Pii, replaced: Counter[str]) -> str:
    kept, end = [], 0
    for begin, next_end in national_numbers(text, tuple(rules.phone_regions)):
        kept.append(text[end:begin])
        end = next_end
    if not kept:
        return text
    replaced["phone_numbers"] += len(kept)
    return "[PHONE_NUMBER]".join([*kept, text[end:]])


def _placeholder(found: str, kind: _Kind, replaced: Counter[str]) -> str:
    if not kind.is_personal(found):
        return found
    replaced[kind.name] += 1
    return kind.placeholder
