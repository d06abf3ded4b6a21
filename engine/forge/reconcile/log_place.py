"""Where the transparency logs of a repository lie on this machine, what they are called, and which key signs them."""

import re
from dataclasses import dataclass
from pathlib import Path

from forge.errors import UsageError
from forge.repo.repository import Repository
from forge.spec.settings import Settings

LOG_KEY = "keys/log.pem"
"""In the configuration folder."""


@dataclass(frozen=True)
class LogPlace:
    """Where the logs of a repository lie on this machine."""

    repository: Repository
    settings: Settings
    config: Path

    @property
    def key_file(self) -> Path:
        """The key that signs every log of this machine; a log's name keeps its signatures apart from another's."""
        return self.config / LOG_KEY

    @property
    def seals(self) -> Path:
        """What was signed last, apart from the logs."""
        return self.repository.state_folder / "log-seals.json"

    def origin(self, environment: str | None) -> str:
        """A log's name; raises UsageError where forge.toml gives none."""
        if self.settings.log.origin is None:
            raise UsageError(
                "forge.toml names no log: a log needs a name that nobody else uses and that never changes. Write, for "
                'instance:\n[log]\norigin = "example.org/forge"'
            )
        return f"{self.settings.log.origin}/{log_name(environment)}"

    def folder(self, environment: str | None) -> Path:
        """A log's folder."""
        return self.repository.home / self.settings.log.folder / log_name(environment)


def log_name(environment: str | None) -> str:
    """``ledger`` or ``audit/ENVIRONMENT``; raises UsageError for what is no name of an environment."""
    if environment is None:
        return "ledger"
    if re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", environment) is None:
        raise UsageError(f"--env: {environment!r} is no name of an environment")
    return f"audit/{environment}"
