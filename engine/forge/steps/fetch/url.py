"""A file behind a URL -> its bytes, hashed while they come; other bytes than the pinned ones are refused.

Invariant: a file is in its place only when its digest is the pinned one. The size is bounded while it is read. http and https
are asked for the plain bytes (no content encoding), as ``curl`` gets them.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from forge.errors import StepError
from forge.spec.remote import RemoteFile
from forge.steps.fetch.address import without_addresses
from forge.steps.fetch.downloads import Downloads

_CHUNK_BYTES = 1024 * 1024
_CONNECT_SECONDS = 30
_SILENCE_SECONDS = 60
_PATIENCE_SECONDS = 300.0
_LEAST_SPEED = 1000
"""Bytes per second, on the average, after that time: a host that sends a byte a minute holds no step for ever."""

Progress = Callable[[int], None]
"""Is told the bytes so far."""


def fetch_file(file: RemoteFile, target: Path, place: str, downloads: Downloads, progress: Progress) -> int:
    """Bring a file to ``target``; returns its size.

    ``place`` says in messages which one it is. Raises StepError for what cannot be had, is too large, or holds other bytes.
    """
    name = f"sha256-{file.sha256}"
    kept = downloads.find(name)
    if kept is not None:
        with suppress(FileNotFoundError):  # somebody emptied the folder just now
            with kept.open("rb") as source:
                size, found = _copy(source, target, file.max_bytes, f"{place}, kept from an earlier download", progress)
            if found == file.sha256:
                return size
        downloads.drop(name)
    what = f"{place} ({file.url})"
    size, found = read_url(file.url, target, file.max_bytes, what, progress)
    if found != file.sha256:
        target.unlink()
        raise StepError(
            f"{what}: expected sha256 {file.sha256}, found {found} ({size:,} bytes): its content changed since it was "
            "pinned, or something else answers there. Look at what it is now before you pin that"
        )
    downloads.keep(name, target)
    return size


def read_url(url: str, target: Path, most: int, what: str, progress: Progress) -> tuple[int, str]:
    """Bring whatever is behind a URL to ``target``; returns its size and sha256. Raises StepError as ``fetch_file`` does."""
    try:
        with _opened(url, what) as source:
            return _copy(source, target, most, what, progress)
    except StepError:
        raise
    except Exception as error:  # each backend has errors of its own; all of them mean that the file cannot be had
        raise StepError(
            f"{what} cannot be read: {type(error).__name__}: {_said(error)}; check that it is there, that this machine may "
            "read it, and the network (docs/data.md says where credentials come from), then apply again"
        ) from error


def _copy(source: Any, target: Path, most: int, what: str, progress: Progress) -> tuple[int, str]:
    size, digest, began = 0, hashlib.sha256(), time.monotonic()
    with target.open("wb") as written:
        while chunk := source.read(_CHUNK_BYTES):
            size += len(chunk)
            if size > most:
                raise StepError(f"{what}: more than {most:,} bytes: raise its `max_bytes` if that is right")
            seconds = time.monotonic() - began
            if seconds > _PATIENCE_SECONDS and size < _LEAST_SPEED * seconds:
                raise StepError(
                    f"{what}: {size:,} bytes in {seconds:.0f} seconds: the host is too slow; apply again, or mirror it"
                )
            digest.update(chunk)
            written.write(chunk)
            progress(size)
    return size, digest.hexdigest()


def _opened(url: str, what: str) -> Any:
    import fsspec

    scheme = urlsplit(url).scheme
    options: dict[str, Any] = {}
    how: dict[str, Any] = {}
    if scheme in ("http", "https"):
        options, how = _options_of_http(), {"block_size": 0, "size": 1}  # one stream, nothing asked before it
    try:
        system, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise StepError(f"{what}: {scheme}:// {_missing(scheme)}") from error
    if scheme == "file" and not Path(path).is_file():
        raise StepError(f"{what}: there is no such file on the machine where steps run")
    return system.open(path, "rb", **how)


def _options_of_http() -> dict[str, Any]:
    try:
        from aiohttp import ClientTimeout
    except ImportError:
        return {}  # fsspec is about to say what it lacks
    timeout = ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
    return {
        "client_kwargs": {"timeout": timeout, "trust_env": True, "auto_decompress": False},
        "headers": {"Accept-Encoding": "identity"},
        "skip_instance_cache": True,
    }


def _missing(scheme: str) -> str:
    """What fsspec says it lacks for a scheme: the name of a package."""
    from fsspec.registry import known_implementations

    said = str(known_implementations.get(scheme, {}).get("err", "has no known backend"))
    return f"cannot be read with what is installed where steps run ({said}): install that package there, and apply again"


def _said(error: BaseException) -> str:
    status = getattr(error, "status", None)
    return f"HTTP status {status}" if isinstance(status, int) else without_addresses(str(error)) or "no reason was given"
