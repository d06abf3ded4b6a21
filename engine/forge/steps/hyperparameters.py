"""Reading what a sweep step made: the sweep step does, and the training that its values are for."""

from pathlib import Path

from pydantic import ValidationError

from forge.contract.hyperparameters import HYPERPARAMETERS_FILE, Hyperparameters
from forge.errors import StepError


def read_hyperparameters(folder: Path) -> Hyperparameters:
    """The product of a sweep step; raises StepError for anything else."""
    try:
        return Hyperparameters.model_validate_json((folder / HYPERPARAMETERS_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise StepError(f"{folder}: expected the product of a sweep step, {HYPERPARAMETERS_FILE}: {error}") from error
