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
    slots: Annotated[int, Field(ge=1, le=1024)] = 1
    """Steps that run at once, where they do not wait for each other."""


class LeaseSection(_Section):
    """How runners tell each other what they work at."""

    time_to_live_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A holder whose lease stands still for so long, on the watch of who looks at it, is taken for dead."""


class RetentionSection(_Section):
    """What `forge gc` keeps beside what is released, protected, wanted by the commit or at work."""

    days: Annotated[float, Field(ge=0)] = 30.0
    """Artifacts of records that finished within so many days."""
    releases: Annotated[int | None, Field(ge=1)] = None
    """The newest so many releases of each environment; None: all of them, so that any can be rolled back to."""
    grace_hours: Annotated[float, Field(ge=0)] = 24.0
    """What was stored within so many hours is never touched: it may belong to a step that is not recorded yet."""


class BudgetsSection(_Section):
    """What a plan may cost before it is refused."""

    max_cost_per_plan: Annotated[float | None, Field(ge=0)] = None
    """In the currency of the file; None: no limit."""


class AcceleratorSection(_Section):
    """What one accelerator of a type costs and does; estimates are made of this."""

    price_per_hour: Annotated[float, Field(ge=0)]
    flops_per_second: Annotated[float, Field(gt=0)]
    """Sustained in training, not the datasheet's peak."""


class NotifySection(_Section):
    """Who is told when the health of a resource changes."""

    webhook: str | None = None
    """A URL that gets a POST of JSON, or where one is found: ``env:NAME`` or ``file:PATH``."""


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
    leases: LeaseSection = LeaseSection()
    notify: NotifySection = NotifySection()
    retention: RetentionSection = RetentionSection()
    budgets: BudgetsSection = BudgetsSection()
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
