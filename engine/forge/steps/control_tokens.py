"""The control tokens of a tokenizer that a step is given, as its files tell them."""

import json
from pathlib import Path
from typing import Any

from forge.contract.control_tokens import NAMED_FILE, ControlTokens, control_tokens_of
from forge.errors import StepError


def read_control_tokens(folder: Path) -> ControlTokens:
    """Those that the files of a tokenizer tell; raises ``StepError``, naming the file."""
    named = read_json(folder / NAMED_FILE) if (folder / NAMED_FILE).is_file() else None
    try:
        return control_tokens_of(read_json(folder / "tokenizer.json"), read_json(folder / "tokenizer_config.json"), named)
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
