"""forge.toml: what is about the place rather than the model. Read from the same commit as the specs."""

import re
import tomllib
import typing
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forge.errors import UsageError, printable

SETTINGS_FILE = "forge.toml"
_PLACE = re.compile(r"\(at line ([0-9]+), column ([0-9]+)\)")
_MOST_LINES = 1000
"""A longer file is told its faults without lines: finding one reads the beginning of the file again and again."""


Region = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A label of a place, such as ``eu``: the same words as in the ``regions`` of data."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class SpecsSection(_Section):
    """Where specs lie."""

    include: list[str] = ["models/**/*.yaml", "policies/**/*.yaml", "evals/*.yaml"]
    """Globs from the repository's root, as in .gitignore."""


class StoreSection(_Section):
    """Where bytes lie."""

    url: Annotated[str, Field(pattern="^[^~]")] = ".forge/store"
    """A folder relative to the repository's root, or any fsspec URL."""
    region: Region | None = None
    """Where it is: data that names ``regions`` is kept in a store in one of them alone. None: in none."""


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
    """Processes of steps that run at once, where the steps do not wait for each other: a training with `resources.count: 2`
    takes two. One that takes more than there are runs alone; one that does not fit yet lets smaller ones pass."""
    region: Region | None = None
    """Where it is: data that names ``regions`` is worked at by an executor in one of them alone. None: in none."""


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
    """What was stored within so many hours is never touched: it may belong to a step that is not recorded yet. Where the store
    does not tell when a file was written, nothing is, unless this is 0."""


class BudgetsSection(_Section):
    """What a plan may cost before it is refused."""

    max_cost_per_plan: Annotated[float | None, Field(ge=0)] = None
    """In the currency of the file; None: no limit. With a limit, a training that no price is known for is refused."""


class AcceleratorSection(_Section):
    """What one accelerator of a type costs and does; estimates are made of this."""

    price_per_hour: Annotated[float, Field(ge=0)]
    flops_per_second: Annotated[float, Field(gt=0)]
    """Sustained in training, not the datasheet's peak."""
    peak_flops_per_second: Annotated[float | None, Field(gt=0)] = None
    """The datasheet's, dense, at the precision that is trained in: what MFU is a share of. None: no MFU is shown."""


class NotifySection(_Section):
    """Who is told when the health of a resource changes."""

    webhook: str | None = None
    """A URL that gets a POST of JSON, or where one is found: ``env:NAME`` or ``file:PATH``."""


class LogSection(_Section):
    """The transparency logs of the ledger and of each environment's audit log."""

    origin: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*(/[A-Za-z0-9._-]+)*$", max_length=150)] | None = None
    """What the logs' names begin with, a URL without its scheme that nobody else uses: ``example.org/forge``. None: no logs."""
    folder: Annotated[str, Field(pattern="^[^~]")] = ".forge/log"
    """A folder on this machine, relative to the repository's root."""


class TimestampsSection(_Section):
    """Who says when something was signed (RFC 3161)."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s@#]+$", max_length=500)] | None = None
    """The address that time-stamping requests are posted to. None: signatures carry no time stamps. An address with a name and
    a password in it is refused: this file holds no secrets."""


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
    log: LogSection = LogSection()
    notify: NotifySection = NotifySection()
    timestamps: TimestampsSection = TimestampsSection()
    retention: RetentionSection = RetentionSection()
    budgets: BudgetsSection = BudgetsSection()
    accelerators: dict[str, AcceleratorSection] = {}

    def peak_flops_per_second(self, accelerator: str, count: int) -> float | None:
        """Of so many accelerators of a type; None where the file names no peak of it."""
        entry = self.accelerators.get(accelerator)
        return None if entry is None or entry.peak_flops_per_second is None else entry.peak_flops_per_second * count


def read_settings(data: bytes, engine_version: str) -> Settings:
    """Parse forge.toml; raises UsageError with every fault and its line, or for an engine that the file does not accept."""
    try:
        text = data.decode("utf-8")
        table: dict[str, Any] = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UsageError(f"{SETTINGS_FILE}: not UTF-8: save the file in that encoding") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        place = _PLACE.search(str(error))
        where = f"{place.group(1)}:{place.group(2)}" if place else str(max(1, len(text.splitlines())))
        raise UsageError(f"{SETTINGS_FILE}:{where}: not valid TOML: {_PLACE.sub('', str(error)).strip()}") from error
    try:
        settings = Settings.model_validate(table)
    except ValidationError as error:
        faults = [_described(dict(fault), text) for fault in error.errors(include_url=False)]
        raise UsageError("\n".join(printable(fault) for fault in faults)) from error
    if settings.required_version is not None:
        _require_version(settings.required_version, engine_version, text)
    return settings


def _described(fault: dict[str, Any], text: str) -> str:
    location = fault["loc"]
    line, name = _line_of(text, location), ".".join(str(part) for part in location)
    place = f"{SETTINGS_FILE}:{line}" if line else SETTINGS_FILE
    match fault["type"]:
        case "extra_forbidden":
            from forge.spec.load import did_you_mean

            return f"{place}: unknown key `{name}`{did_you_mean(str(location[-1]), _keys_at(location[:-1]))}"
        case "missing":
            return f"{place}: missing key `{name}`"
    given = f", found {fault['input']!r}" if isinstance(fault["input"], str | int | float) else ""
    return f"{place}: `{name}`: {fault['msg']}{given}"


def _keys_at(location: tuple[str | int, ...]) -> list[str]:
    """The keys of a table of forge.toml."""
    found: Any = Settings
    for part in location:
        if isinstance(found, type) and issubclass(found, BaseModel):
            found = found.model_fields[str(part)].annotation
        else:
            found = typing.get_args(found)[-1]  # dict[str, Section]: any name
    return list(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else []


def _line_of(text: str, location: tuple[str | int, ...]) -> int | None:
    """The line where a key is written, or the table that lacks it: the first after which TOML knows of it."""
    lines = text.splitlines(keepends=True)
    if len(lines) > _MOST_LINES:
        return None
    while location:
        begin = 1
        for number in range(1, len(lines) + 1):
            try:
                table: Any = tomllib.loads("".join(lines[:number]))
            except tomllib.TOMLDecodeError:
                continue  # in the middle of a value
            if _holds(table, location):
                return begin
            begin = number + 1
        location = location[:-1]
    return None


def _holds(value: Any, location: tuple[str | int, ...]) -> bool:
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _require_version(required: str, engine_version: str, text: str) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    place = f"{SETTINGS_FILE}:{_line_of(text, ('required_version',))}"
    try:
        accepted = SpecifierSet(required).contains(engine_version, prereleases=True)
    except InvalidSpecifier as error:
        raise UsageError(f"{place}: required_version: {error}") from error
    if not accepted:
        raise UsageError(f"{place}: required_version is {required!r}, this is Forge {engine_version}")
