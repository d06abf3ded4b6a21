"""Sources outside of the repository: files of a Git commit, and files behind URLs, each pinned by a digest.

Invariant: what is read is decided by digests that stand in the spec, never by the state of a host, so that an address may
change without anything being made again. An address holds no secret: one with a password, a token or a signed query is
refused, and the message does not repeat it. It names one place, and nothing that whoever reads it would carry out: no
remote helper (``ext::``), no chain of file systems, no option of a command line.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from forge.spec.fields import Count, Part
from forge.spec.formats import FORMATS, format_of
from forge.spec.meaning import NONE, REBUILD

ADDRESS_FAULT = "address"
"""The type of a fault in an address: it may hold a secret, so that nobody shows what was found."""
SCHEMES = ("https", "http", "s3", "gs", "gcs", "az", "abfs", "abfss", "hdfs", "webhdfs", "file", "memory")
"""What a file may be read through; fsspec's names."""
_GIT_SCHEMES = ("https", "ssh", "file")
_MAX_CHARACTERS = 1000
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_HOST = re.compile(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_LIKE_SCP = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*:(?![-/]?/|-)\S+")
_SECRET = re.compile(
    r"token|secret|signature|passw|credential|api[-_]?key|access[-_]?key|session|^(sig|key|auth|jwt|code)$", re.IGNORECASE
)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def _refused(message: str) -> PydanticCustomError:
    return PydanticCustomError(ADDRESS_FAULT, "{message}", {"message": message})


class _Address(NamedTuple):
    """The parts of a URL (RFC 3986, appendix B)."""

    scheme: str
    user: str | None
    host: str
    """With its port."""
    path: str
    query: str
    fragment: str


def _split(value: str) -> _Address:
    found = _URL.fullmatch(value)
    if found is None:
        raise _refused("not a URL that can be read")
    scheme, authority, path, query, fragment = (part or "" for part in found.groups())
    user, at, host = authority.rpartition("@")
    return _Address(scheme, user if at else None, host, path, query, fragment)


def _plain(value: str) -> None:
    """What no address has, whatever it leads to."""
    if not value or len(value) > _MAX_CHARACTERS:
        raise _refused(f"expected an address of 1 to {_MAX_CHARACTERS} characters")
    if not value.isprintable() or any(character.isspace() for character in value):
        raise _refused("an address holds no spaces and no control characters")
    if value.startswith("-"):
        raise _refused("an address that begins with a hyphen would be read as an option: write the whole URL")
    if "::" in value.split("/", 1)[0] or "::" in value.split("[", 1)[0]:
        raise _refused("`::` names a helper program or a chain of file systems, which is not run: write one plain URL")


def _without_secrets(parts: _Address) -> None:
    is_container = parts.scheme in ("abfs", "abfss") and parts.user is not None and _USER.fullmatch(parts.user)
    if (parts.user is not None and not is_container) or "%" in parts.host:
        raise _refused(
            "a name or a password in a URL would stand in the repository and in logs: take it out (it is lost now, make "
            "another one); where credentials come from is said in docs/data.md"
        )
    for pair in re.split("[&;]", parts.query):
        name = pair.partition("=")[0]
        if _SECRET.search(name) or "%" in name:
            raise _refused(
                "a parameter of its query looks like a secret, which would stand in the repository and in logs: take it out; "
                "where credentials come from is said in docs/data.md"
            )
    if parts.fragment:
        raise _refused("a file has no `#fragment`: leave it out")


def _git_address(value: str) -> str:
    _plain(value)
    if "://" not in value:
        if value.startswith("/") or _LIKE_SCP.fullmatch(value):
            return value
        raise _refused("expected https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, file:///PATH or an absolute path")
    parts = _split(value)
    if parts.scheme not in _GIT_SCHEMES:
        raise _refused(f"a repository is fetched through {', '.join(_GIT_SCHEMES)}: write one of them")
    if parts.scheme == "ssh":
        if parts.user is not None and not _USER.fullmatch(parts.user):
            raise _refused("expected ssh://USER@HOST/PATH without a password: ssh finds its key by itself (docs/data.md)")
        parts = parts._replace(user=None)
    _without_secrets(parts)
    if parts.query:
        raise _refused("the address of a repository has no `?query`: leave it out")
    if parts.scheme == "file":
        if parts.host or not parts.path.startswith("/"):
            raise _refused("expected file:///PATH, an absolute path on the machine where steps run")
    elif not _HOST.fullmatch(parts.host):
        raise _refused("its host cannot be read: expected letters, digits, dots and hyphens")
    if parts.path.strip("/") == "" or parts.path.startswith("/-"):
        raise _refused("expected the path of a repository after the host")
    return value


def _file_address(value: str) -> str:
    _plain(value)
    if "://" not in value:
        raise _refused("expected a URL such as https://HOST/PATH or s3://BUCKET/PATH; files of this repository go into `path`")
    if "::" in value:
        raise _refused("`::` names a helper program or a chain of file systems, which is not run: write one plain URL")
    parts = _split(value)
    if parts.scheme not in SCHEMES:
        raise _refused(f"files are read through {', '.join(SCHEMES)}: write one of them")
    _without_secrets(parts)
    if parts.scheme in ("http", "https") and not _HOST.fullmatch(parts.host):
        raise _refused("its host cannot be read: expected letters, digits, dots and hyphens")
    if parts.path.endswith("/") or (not parts.path and parts.scheme != "memory"):
        raise _refused("expected the URL of one file; a folder is pinned file by file")
    if any(sign in parts.path for sign in "*?"):
        raise _refused("a glob may match other files tomorrow: list each file with its sha256")
    return value


def _commit(value: str) -> str:
    if not _COMMIT.fullmatch(value):
        raise ValueError(
            "a branch or a tag moves, and a short name may come to mean another commit: pin the full lower-case sha, which "
            "`forge data pin URL BRANCH-OR-TAG` prints"
        )
    return value


def _sha256(value: str) -> str:
    found = _SHA256.fullmatch(value)
    if found is None:
        raise ValueError("expected 64 lower-case hexadecimal digits, as `forge data pin URL` prints them")
    return found[1]


def _glob(value: str) -> str:
    if (
        not value
        or value.startswith(("!", "/", "-", "#"))
        or "\\" in value
        or ".." in value.split("/")
        or not value.isprintable()
    ):
        raise ValueError("expected a glob from the top of that repository, such as src/**/*.py (what is left out: `exclude`)")
    return value


Glob = Annotated[str, AfterValidator(_glob)]


class GitFiles(Part):
    """Files of one commit of a Git repository: source code, and the other formats, by the endings of their names."""

    url: Annotated[str, AfterValidator(_git_address), NONE]
    """Where the commit is fetched from. The commit's name is the digest of all it holds: another address changes nothing."""
    commit: Annotated[str, AfterValidator(_commit), REBUILD]
    """Its full sha (40 digits, or 64 where the repository uses SHA-256)."""
    include: Annotated[list[Glob], Field(min_length=1), REBUILD]
    """Globs from the top of that repository, as in .gitignore."""
    exclude: Annotated[list[Glob], REBUILD] = []
    """What the globs above match and is left out all the same."""
    max_bytes: Annotated[Count, Field(ge=1), NONE] = 2_000_000_000
    """Most bytes to fetch, and most bytes of the files together; more is refused."""

    @property
    def place(self) -> str:
        """How plans and reports call it."""
        return f"{self.url} at {self.commit[:12]}"


def _format_may_be_left_out(schema: dict[str, Any]) -> None:
    """For editors: ``_complete`` writes it where the URL says it."""
    schema["required"].remove("format")


class RemoteFile(Part):
    """A file behind a URL, pinned by its digest."""

    model_config = ConfigDict(json_schema_extra=_format_may_be_left_out)

    url: Annotated[str, AfterValidator(_file_address), NONE]
    """Any fsspec URL of ``SCHEMES``. The digest is the identity: another address for the same bytes changes nothing."""
    sha256: Annotated[str, AfterValidator(_sha256), REBUILD]
    """Of the file's bytes; other bytes are refused."""
    format: Annotated[str, REBUILD]
    """How the file is read; the ending of the URL's path where it is not written."""
    max_bytes: Annotated[Count, Field(ge=1), NONE] = 64_000_000_000
    """Most bytes to download; more is refused."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if value.get("sha256") is None and "url" in value:
            raise ValueError(
                "a URL without `sha256` may give other bytes tomorrow: pin it, `forge data pin URL` prints the digest"
            )
        if "format" in value or not isinstance(value.get("url"), str):
            return value
        found = format_of(value["url"].split("#", 1)[0].split("?", 1)[0])
        return value if found is None else {**value, "format": found}

    @model_validator(mode="after")
    def _is_readable(self) -> "RemoteFile":
        if self.format not in FORMATS:
            raise ValueError(f"`format` is {self.format!r}; expected one of {', '.join(FORMATS)}")
        return self
