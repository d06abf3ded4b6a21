"""Personal data -> fixed placeholders, counted and never shown.

datatrove's PIIFormatter cycles through replacements, so that its output depends on the order of documents; these
placeholders are fixed. Every repetition in the patterns is bounded, so that no text makes them slow. Only IP addresses
that can belong to somebody are replaced: private, loopback and documentation ranges (192.168.0.1, 2001:db8::1) teach
something and harm nobody.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from forge.spec.data_recipe import Pii


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


def _is_number(text: str) -> bool:
    return 8 <= sum(character.isdigit() for character in text) <= 15  # ITU-T E.164


def _is_iban(text: str) -> bool:
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(sign, 36)) for sign in compact[4:] + compact[:4])) % 97 == 1  # ISO 7064


def _is_card(text: str) -> bool:
    digits = [int(sign) for sign in text if sign.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0  # Luhn


_KINDS = (
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


PII_TYPES = tuple(kind.name for kind in _KINDS)
"""The fields of ``Pii``, in the order in which they are replaced."""


def redact(text: str, rules: Pii, replaced: Counter[str]) -> str:
    """The text with placeholders; adds to ``replaced`` how many of each type there were."""
    for kind in _KINDS:
        if getattr(rules, kind.name):
            text = kind.pattern.sub(lambda match, kind=kind: _placeholder(match[0], kind, replaced), text)  # type: ignore[misc]
    return text


def _placeholder(found: str, kind: _Kind, replaced: Counter[str]) -> str:
    if not kind.is_personal(found):
        return found
    replaced[kind.name] += 1
    return kind.placeholder
