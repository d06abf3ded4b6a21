"""The trust root: which public keys may sign for which role. It lives in the user's configuration, never in the repository.

``forge keys init`` makes a development root: one key per role, all on this machine. Every verdict names the root that it
rests on, and says DEVELOPMENT where that is all it is.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from forge.canonical import Digest, digest_of_json
from forge.contract.kinds import Role
from forge.errors import TrustError

TRUST_FILE = "trust-root.json"


class PublicKey(BaseModel):
    """A key as securesystemslib names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keyid: str
    keytype: str
    scheme: str
    public: str


class TrustRoot(BaseModel):
    """Keys by role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    development: bool
    roles: dict[Role, tuple[PublicKey, ...]]
    weights: tuple[str, ...]
    """PEM public keys (P-256) that may sign weights by OpenSSF model signing."""

    @property
    def digest(self) -> Digest:
        """What a verifier pins."""
        return digest_of_json(self.model_dump(mode="json"))

    def describe(self) -> str:
        """One line for a verdict."""
        kind = "DEVELOPMENT trust root (its keys lie on the machine that made them)" if self.development else "trust root"
        return f"{kind} {self.digest}"


def config_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where keys and the trust root lie: $FORGE_CONFIG_HOME, else $XDG_CONFIG_HOME/forge, else ~/.config/forge."""
    environment = os.environ if environment is None else environment
    if environment.get("FORGE_CONFIG_HOME"):  # empty, as an unset CI variable is, means unset
        return Path(environment["FORGE_CONFIG_HOME"])
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "forge"


def read_trust_root(folder: Path) -> TrustRoot:
    """The pinned root; raises TrustError when there is none or it is not one."""
    path = folder / TRUST_FILE
    try:
        return TrustRoot.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise TrustError(f"no trust root is pinned ({path}): run `forge keys init` for development keys") from error
    except ValidationError as error:
        raise TrustError(f"{path}: not a trust root: {error}") from error
