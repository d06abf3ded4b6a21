"""forge.toml: what is about the place rather than the model. Read from the same commit as the specs."""

import tomllib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forge.errors import UsageError

SETTINGS_FILE = "forge.toml"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SpecsSection(_Section):
    """Where specs lie."""

    include: list[str] = ["models/**/*.yaml", "policies/**/*.yaml", "evals/*.yaml"]
    """Globs from the repository's root, as in .gitignore."""


class StoreSection(_Section):
    """Where bytes lie."""

    url: Annotated[str, Field(pattern="^[^~]")] = ".forge/store"
    """A folder relative to the repository's root, or any fsspec URL."""


class LedgerSection(_Section):
    """Where history lies."""

    ref: Annotated[str, Field(pattern=r"^refs/forge/ledger[a-z0-9-]*$")] = "refs/forge/ledger"
    remote: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Name of the Git remote that runners share the ledger and their leases through; None keeps both in this clone."""


class LocalExecutorSection(_Section):
    """Steps as processes on this machine."""

    threads: Annotated[int, Field(ge=1)] = 2
    """Threads of a step's process; products may depend on it, so it is recorded."""


class AcceleratorSection(_Section):
    """What one accelerator of a type costs and does; estimates are made of this."""

    price_per_hour: Annotated[float, Field(ge=0)]
    flops_per_second: Annotated[float, Field(gt=0)]
    """Sustained in training, not the datasheet's peak."""


class Settings(_Section):
    """The whole file."""

    required_version: str | None = None
    """A version specifier (PEP 440) that the engine must satisfy."""
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "USD"
    """ISO 4217."""
    specs: SpecsSection = SpecsSection()
    store: StoreSection = StoreSection()
    ledger: LedgerSection = LedgerSection()
    executor: LocalExecutorSection = LocalExecutorSection()
    accelerators: dict[str, AcceleratorSection] = {}


def read_settings(data: bytes, engine_version: str) -> Settings:
    """Parse forge.toml; raises UsageError with every fault, or for an engine that the file does not accept."""
    try:
        table: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{SETTINGS_FILE}: not valid TOML: {error}") from error
    try:
        settings = Settings.model_validate(table)
    except ValidationError as error:
        faults = [
            f"{SETTINGS_FILE}: {'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()
        ]
        raise UsageError("\n".join(faults)) from error
    if settings.required_version is not None:
        _require_version(settings.required_version, engine_version)
    return settings


def _require_version(required: str, engine_version: str) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        accepted = SpecifierSet(required).contains(engine_version, prereleases=True)
    except InvalidSpecifier as error:
        raise UsageError(f"{SETTINGS_FILE}: required_version: {error}") from error
    if not accepted:
        raise UsageError(f"{SETTINGS_FILE}: required_version is {required!r}, this is Forge {engine_version}")
