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
from forge.own_files import read_own_file

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
    """The pinned root; raises TrustError when there is none, when it is not one, and when others can write the file."""
    path = folder / TRUST_FILE
    try:
        return TrustRoot.model_validate_json(read_own_file(path))
    except FileNotFoundError as error:
        raise TrustError(f"no trust root is pinned ({path}): run `forge keys init` for development keys") from error
    except ValidationError as error:
        raise TrustError(f"{path}: not a trust root: {error}") from error


def pinned_root(folder: Path) -> str | None:
    """The digest of the pinned root; None where none is that can be read, as on a machine that only plans."""
    try:
        return read_trust_root(folder).digest
    except TrustError:
        return None


def write_trust_root(folder: Path, root: TrustRoot) -> None:
    """Pin a root: from now on every verdict of this configuration rests on it."""
    temporary = folder / f"{TRUST_FILE}.{os.getpid()}.tmp"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "w") as file:
        file.write(root.model_dump_json(indent=1) + "\n")
    temporary.replace(folder / TRUST_FILE)


def pin_trust_root(folder: Path, data: bytes, digest: str, *, replace: bool) -> TrustRoot:
    """Pin a root of which the digest is known from elsewhere.

    Raises TrustError where the bytes are no root or one of another digest, and where another root is pinned unless
    ``replace`` says that it is to go.
    """
    try:
        root = TrustRoot.model_validate_json(data)
    except ValidationError as error:
        raise TrustError(f"not a trust root: {error}") from error
    if root.digest != digest:
        raise TrustError(
            f"this root's digest is {root.digest}, and {digest} is to be pinned: it is another root, or was changed"
        )
    before = read_trust_root(folder) if (folder / TRUST_FILE).exists() and not replace else None
    if before is not None and before.digest != root.digest:
        raise TrustError(
            f"{folder / TRUST_FILE} pins {before.digest} already. A root that it has signed as its successor needs no pinning "
            "(`forge keys rotate`); `--replace` ends the trust in everything that rests on it"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_trust_root(folder, root)
    return root
