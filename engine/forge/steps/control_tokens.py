"""The control tokens of a tokenizer that a step is given, as its files tell them."""

import json
from pathlib import Path
from typing import Any

from forge.contract.control_tokens import ControlTokens, control_tokens_of
from forge.errors import StepError


def read_control_tokens(folder: Path) -> ControlTokens:
    """Those of ``tokenizer.json`` and ``tokenizer_config.json``; raises ``StepError``, naming the file."""
    try:
        return control_tokens_of(*(read_json(folder / name) for name in ("tokenizer.json", "tokenizer_config.json")))
    except ValueError as error:
        raise StepError(f"{folder / 'tokenizer.json'}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises ``StepError``, naming the file."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StepError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise StepError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found
