"""Placeholder until the trainer's part lands."""

from collections.abc import Mapping
from typing import Any


def why_not_extended(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """See the trainer."""
    return "not built"


def kept_tokens(parameters: Mapping[str, Any]) -> int:
    """See the trainer."""
    return 0
