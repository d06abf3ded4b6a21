"""Which licences a recipe allows: SPDX expressions (version 2.3, annex D), read by the license-expression library.

Invariant: what cannot be read, or is not allowed for certain, is refused. Of ``A OR B`` one has to be allowed, of ``A AND B``
both; ``A WITH E`` has to be allowed as it stands, because an exception changes the terms. Identifiers are those of the SPDX
list, whatever their case, or ``LicenseRef-..`` for terms of one's own. Loading the list takes a moment, so that nobody
does who names no ``allow_licenses``.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

_MAX_CHARACTERS = 500
_OWN = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")


@dataclass(frozen=True)
class LicenseFault:
    """Why a licence is refused."""

    kind: Literal["missing", "invalid", "not_allowed"]
    message: str


def checked_license(text: str) -> str:
    """The text as SPDX spells it; raises ValueError for an expression, or for a licence that SPDX does not list."""
    parsed = _parsed(text)
    if _is(parsed, "AND", "OR"):
        raise ValueError(f"{text!r} combines licences: list each of them by itself")
    return str(parsed)


def license_fault(text: str, allowed: Collection[str] | None) -> LicenseFault | None:
    """Why documents under this expression are refused; None where they are not.

    ``allowed`` as ``checked_license`` gives them; None allows whatever is an SPDX expression.
    """
    if not text.strip():
        return LicenseFault("missing", "no licence is named: expected an SPDX expression such as CC-BY-4.0")
    try:
        parsed = _parsed(text)
    except ValueError as error:
        return LicenseFault("invalid", str(error))
    if allowed is None or _is_allowed(parsed, allowed):
        return None
    found = ", ".join(allowed) or "none"
    return LicenseFault("not_allowed", f"{str(parsed)!r} is not allowed by `allow_licenses` ({found})")


def _is_allowed(parsed: Any, allowed: Collection[str]) -> bool:
    if _is(parsed, "AND"):
        return all(_is_allowed(part, allowed) for part in parsed.args)
    if _is(parsed, "OR"):
        return any(_is_allowed(part, allowed) for part in parsed.args)
    return str(parsed) in allowed


def _is(parsed: Any, *operators: str) -> bool:
    return getattr(parsed, "operator", "").strip() in operators


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    """The expression; raises ValueError that says what is wrong with it."""
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"longer than {_MAX_CHARACTERS} characters, which is no SPDX expression")
    licensing = _licensing()
    from license_expression import ExpressionError

    try:
        parsed = licensing.parse(text, validate=False, strict=True)
    except (ExpressionError, RecursionError) as error:
        raise ValueError(f"{text[:60]!r} is no SPDX expression ({str(error).splitlines()[0]})") from error
    if parsed is None:
        raise ValueError("no licence is named: expected an SPDX expression such as CC-BY-4.0")
    unknown = [key for key in licensing.unknown_license_keys(parsed) if not _OWN.fullmatch(key)]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no licence of the SPDX list (terms of your own are LicenseRef-NAME)")
    return parsed


@lru_cache(maxsize=1)
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()
