"""Which private key signs as a role on this machine: a PEM file, a key in a hardware token, or one in a key service.

``signers.toml`` in the configuration folder names it by one of securesystemslib's URIs; a role without an entry signs with
``keys/ROLE.pem`` there. The file holds references to secrets, never a secret.

Invariants: an entry that cannot be carried out as it is written is refused, never answered with another key. A signer that is
no file's checks each signature with its public key before it gives it away, so a token that holds another key is found here and
not by whoever verifies. A PIN that a token refused is not tried again by this process: a few wrong ones lock a token for good.
"""

import getpass
import hashlib
import os
import re
import sys
import threading
import tomllib
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from securesystemslib.exceptions import UnsupportedLibraryError, UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from forge.attest.pem import load_private_key, load_public_key, pem_of_public
from forge.contract.kinds import Role
from forge.errors import TrustError, printable
from forge.own_files import read_own_file, read_private_file

SIGNERS_FILE = "signers.toml"
KeyName = Role | Literal["weights"]
WEIGHTS: Literal["weights"] = "weights"
"""The trainer's P-256 key for OpenSSF signatures of weights; it is no role of its own."""
SCHEMES = {
    "file2": "",
    "hsm": "python-pkcs11 (the extra `hsm`)",
    "awskms": "boto3 (securesystemslib's extra `awskms`)",
    "gcpkms": "google-cloud-kms (securesystemslib's extra `gcpkms`)",
    "azurekms": "azure-keyvault-keys and azure-identity (securesystemslib's extra `azurekms`)",
    "hv": "hvac (securesystemslib's extra `vault`)",
}
"""The schemes of URIs that are read, and what each needs beside this package."""
_SECRET = re.compile(r"ask|env:[A-Za-z_][A-Za-z0-9_]*|file:.+")
_PROOF = b"forge: does this key sign?"
"""No pre-authentication encoding of DSSE begins like this, so a signature over it says nothing."""
_REMEDIES = {
    "PinIncorrect": "the PIN is wrong; it is not tried again, because a token locks itself after a few wrong ones",
    "PinInvalid": "the PIN is not one that the token takes",
    "PinLenRange": "the PIN is shorter or longer than the token takes",
    "PinLocked": "the token is locked after wrong PINs: unlock it with the security officer's PIN",
    "PinExpired": "the PIN has expired: set another one",
    "UserPinNotInitialized": "the token has no PIN yet: set one",
}
_token = threading.Lock()
"""Who has logged in to a token is one state for a whole process."""
_refused: set[bytes] = set()
_asked: dict[str, str] = {}
"""What was typed on the terminal, so that one command asks once for a key."""


class Entry(BaseModel):
    """A table of signers.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    uri: str | None = None
    """Where the private key is; None: ``keys/ROLE.pem``."""
    public: str | None = None
    """A PEM file with the public key. A token or a service cannot be asked for it without being trusted first."""
    secret: str | None = None
    """Where the passphrase of an encrypted PEM, or a PIN, is found: ``env:NAME``, ``file:PATH``, or ``ask`` on the terminal."""


def open_signer(name: KeyName, folder: Path) -> Signer:
    """The signer of a role, or of weights; raises TrustError where it cannot be had."""
    entry = read_entries(folder).get(str(name), Entry())
    place = f"{folder / SIGNERS_FILE}: [{name}]"
    uri = entry.uri or f"file2:keys/{name}.pem"
    scheme, separator, rest = uri.partition(":")
    if not separator or scheme not in SCHEMES:
        from forge.spec.load import did_you_mean

        raise TrustError(f"{place}: uri: unknown scheme {printable(scheme)!r}{did_you_mean(scheme, SCHEMES)}")
    if scheme == "file2":
        return _from_file(name, folder / rest, folder, entry, place)
    if entry.public is None:
        raise TrustError(f"{place}: missing key `public`: name a PEM file with the public half of {uri}")
    if scheme == "hsm" and entry.secret is None:
        raise TrustError(f"{place}: missing key `secret`: say where the token's PIN is found (env:NAME, file:PATH or ask)")
    if scheme != "hsm" and entry.secret is not None:
        raise TrustError(f"{place}: `secret` has no meaning for {scheme}: its library finds the credentials of this machine")
    public = SSlibKey.from_crypto(load_public_key(folder / entry.public))
    if scheme == "hsm" and public.keytype != "ecdsa":
        raise TrustError(f"{place}: a token signs with a P-256 key, and {entry.public} holds one of type {public.keytype}")
    return _Elsewhere(place, uri, public, _Pin(entry.secret, folder, f"PIN for {name} ({uri})") if entry.secret else None)


def read_entries(folder: Path) -> dict[str, Entry]:
    """The tables of signers.toml, by role; none where there is no file. Raises TrustError for a fault in it."""
    path = folder / SIGNERS_FILE
    try:
        text = read_own_file(path).decode("utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise TrustError(f"{path}: not UTF-8: save the file in that encoding") from error
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TrustError(f"{path}: not valid TOML: {error}") from error
    return {name: _entry(path, name, table) for name, table in tables.items()}


def read_secret(reference: str, folder: Path, prompt: str) -> str:
    """The secret that a reference names; raises TrustError that names the reference, and never what it found."""
    scheme, _, place = reference.partition(":")
    if scheme == "ask":
        return _ask(prompt)
    if scheme == "env":
        found = os.environ.get(place)
        if found is None:
            raise TrustError(f"{reference}: the secret is not set: set the environment variable {place}")
    else:
        try:
            found = read_private_file(folder / place).decode("utf-8").rstrip("\r\n")
        except FileNotFoundError as error:
            raise TrustError(f"{reference}: there is no file {folder / place}") from error
        except UnicodeDecodeError as error:
            raise TrustError(f"{reference}: not UTF-8") from error
    if not found:
        raise TrustError(f"{reference}: the secret is empty")
    return found


def prove(signer: Signer) -> None:
    """Sign something that says nothing, and check it: raises TrustError where the key will not sign when it is needed."""
    try:
        signer.public_key.verify_signature(signer.sign(_PROOF), _PROOF)
    except UnverifiedSignatureError as error:
        raise TrustError(f"the key {signer.public_key.keyid[:12]} signs, but its own public half does not verify it") from error


def _entry(path: Path, name: str, table: Any) -> Entry:
    from forge.spec.load import did_you_mean

    names = [*(role.value for role in Role), WEIGHTS]
    if name not in names or not isinstance(table, dict):
        what = "table" if isinstance(table, dict) else "key outside a table"
        raise TrustError(f"{path}: unknown {what} `{printable(name)}`{did_you_mean(name, names)}")
    try:
        entry = Entry.model_validate(table)
    except ValidationError as error:
        (fault, *_) = error.errors(include_url=False, include_input=False)
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            known = did_you_mean(key, Entry.model_fields)
            raise TrustError(f"{path}: [{name}]: unknown key `{printable(key)}`{known}") from error
        raise TrustError(f"{path}: [{name}]: `{key}`: {fault['msg']}") from error
    if entry.secret is not None and not _SECRET.fullmatch(entry.secret):
        raise TrustError(f"{path}: [{name}]: `secret`: expected env:NAME, file:PATH or ask: a secret itself never stands here")
    return entry


def _from_file(name: KeyName, path: Path, folder: Path, entry: Entry, place: str) -> CryptoSigner:
    if entry.secret is None:
        passphrase, hint = None, f'write `secret = "env:NAME"` (or "file:PATH", or "ask") under {place}'
    else:
        passphrase = read_secret(entry.secret, folder, f"passphrase of {path}")
        hint = f"{place}: secret = {entry.secret}"
    try:
        private = load_private_key(path, passphrase, hint)
    except FileNotFoundError as error:
        if entry.uri is not None:
            raise TrustError(f"{place}: there is no key file {path}") from error
        what = "no key to sign weights with" if name == WEIGHTS else f"no key for the role {name}"
        remedy = "root" if name is Role.ROOT else f"new {name}"
        raise TrustError(
            f"{what} ({path}): run `forge keys init` for development keys, `forge keys {remedy}` for one of a team's, or name "
            f"another place in {SIGNERS_FILE}"
        ) from error
    if entry.public is not None:
        listed = load_public_key(folder / entry.public)
        if pem_of_public(listed) != pem_of_public(private.public_key()):
            raise TrustError(f"{place}: the public key {entry.public} is not the one of the private key {path}")
    return CryptoSigner(private)


def _ask(prompt: str) -> str:
    if prompt not in _asked:
        if not sys.stdin.isatty():
            raise TrustError(f"{prompt}: it is asked for on a terminal, and there is none: use env:NAME or file:PATH")
        found = getpass.getpass(f"{prompt}: ")
        if not found:
            raise TrustError(f"{prompt}: nothing was typed")
        _asked[prompt] = found
    return _asked[prompt]


@dataclass(frozen=True)
class _Pin:
    """Where a token's PIN is found."""

    reference: str
    folder: Path
    prompt: str

    def read(self) -> str:
        return read_secret(self.reference, self.folder, self.prompt)


class _Elsewhere(Signer):  # type: ignore[misc]  # the library is not typed
    """A signer whose private key is no file: its faults as TrustError, its signatures checked."""

    def __init__(self, place: str, uri: str, public: SSlibKey, pin: _Pin | None) -> None:
        self._place, self._uri, self._public, self._pin = place, uri, public, pin

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Any, secrets_handler: Any = None) -> Signer:
        """The library's way to make a signer; here signers.toml is, which says where the PIN is."""
        raise NotImplementedError(f"{priv_key_uri}: use open_signer")

    @property
    def public_key(self) -> SSlibKey:
        """What signers.toml says that the key is; each signature is checked with it."""
        return self._public

    def sign(self, payload: bytes) -> Any:
        """Sign; raises TrustError for whatever the token, the service or its library has to say."""
        pin = self._pin.read() if self._pin is not None else ""
        attempt = hashlib.sha256(f"{self._uri}\0{pin}".encode()).digest()
        with _token if self._pin is not None else nullcontext():
            if attempt in _refused:
                raise TrustError(f"{self._place}: {self._uri} did not sign: {_REMEDIES['PinIncorrect']}")
            try:
                signature = Signer.from_priv_key_uri(self._uri, self._public, lambda _: pin).sign(payload)
                self._public.verify_signature(signature, payload)
            except UnsupportedLibraryError as error:
                needs = SCHEMES[self._uri.partition(":")[0]]
                raise TrustError(f"{self._place}: {self._uri} needs {needs}, which is not installed here") from error
            except UnverifiedSignatureError as error:
                raise TrustError(
                    f"{self._place}: {self._uri} signed, but not with the key whose public half `public` names: one of the two "
                    "is another key's"
                ) from error
            except Exception as error:  # drivers and clients raise errors of their own, which no list names
                name = type(error).__name__
                if name == "PinIncorrect":
                    _refused.add(attempt)
                text = _REMEDIES.get(name) or f"{name}: {printable(str(error))}".rstrip(": ")
                raise TrustError(f"{self._place}: {self._uri} did not sign: {text}") from error
        return signature
