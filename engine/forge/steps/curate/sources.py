"""Where the files of each source lie: laid out with the request, or fetched now.

Invariant: a source's files are numbered in their order and called by it, whatever they were called elsewhere; a document of a
Git repository is known by its path there, which the commit fixes. An address enters neither.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forge.contract.inventory import BYPRODUCT, INVENTORY_FILE, FetchedFile, Inventory
from forge.errors import StepError
from forge.spec.formats import LANGUAGES
from forge.spec.remote import GitFiles, RemoteFile
from forge.steps.fetch.address import forget_credentials
from forge.steps.fetch.downloads import Downloads
from forge.steps.fetch.git import fetch_commit
from forge.steps.fetch.url import fetch_file
from forge.steps.run import StepRun

_EVENT_SECONDS = 5.0


@dataclass(frozen=True)
class SourceFiles:
    """The files of one source."""

    folder: Path
    names: Mapping[str, str] = field(default_factory=dict)
    """File name in the folder -> what its document is called within the source, where that is not the file's name."""


def collect(run: StepRun, scratch: Path) -> list[SourceFiles]:
    """The files of all sources, those from outside fetched into ``scratch``; leaves the by-product ``inventory`` of these.

    Raises StepError for what cannot be had, or is not what was pinned.
    """
    addresses = run.settings.get("sources", [{}] * len(run.parameters["sources"]))
    found: list[SourceFiles] = []
    fetched: list[FetchedFile] = []
    for index, (source, address) in enumerate(zip(run.parameters["sources"], addresses, strict=True)):
        if "git" not in source and "files" not in source:
            found.append(SourceFiles(run.input(f"source-{index}")))
            continue
        folder = scratch / f"source-{index}"
        folder.mkdir()
        fetch = _fetch_git if "git" in source else _fetch_files
        names, files = fetch(run, index, source, address, folder)
        found.append(SourceFiles(folder, names))
        fetched += files
    if fetched:
        forget_credentials()
        left = run.byproduct(BYPRODUCT)
        left.mkdir(parents=True)
        (left / INVENTORY_FILE).write_bytes(Inventory(files=tuple(fetched)).to_bytes())
    return found


_Fetched = tuple[dict[str, str], list[FetchedFile]]


def _fetch_git(run: StepRun, index: int, source: dict[str, Any], address: dict[str, Any], folder: Path) -> _Fetched:
    wanted = GitFiles.model_validate({**source["git"], **_address(address.get("git"), index)})
    run.emit(message=f"sources[{index}]: fetching {wanted.place}")
    work = folder.with_name(f"git-{index}")
    files = fetch_commit(wanted, folder, work, f"sources[{index}]", _downloads(run), _teller(run, index))
    shutil.rmtree(work)  # what was read of it has been copied
    listed = [
        FetchedFile(
            source=index, path=f.path, format=f.format, language=LANGUAGES.get(f.format, ""), size=f.size, sha256=f.sha256
        )
        for f in files
    ]
    return {file.name: file.path for file in files}, listed


def _fetch_files(run: StepRun, index: int, source: dict[str, Any], address: dict[str, Any], folder: Path) -> _Fetched:
    listed = []
    for number, pinned in enumerate(source["files"]):
        own = address.get("files", [])
        file = RemoteFile.model_validate({**pinned, **_address(own[number] if number < len(own) else None, index)})
        place = f"sources[{index}].files[{number}]"
        run.emit(message=f"{place}: fetching {file.url}")
        target = folder / f"{number:06d}.{file.format}"
        size = fetch_file(file, target, place, _downloads(run), _teller(run, index))
        language = LANGUAGES.get(file.format, "")
        listed.append(
            FetchedFile(source=index, path=str(number), format=file.format, language=language, size=size, sha256=file.sha256)
        )
    return {}, listed


def _address(found: dict[str, Any] | None, index: int) -> dict[str, Any]:
    if not found or "url" not in found:
        raise StepError(f"sources[{index}]: the request says no address for it: it was made by another engine, apply again")
    return found


def _downloads(run: StepRun) -> Downloads:
    return Downloads(Path(run.request.downloads) if run.request.downloads else None)


def _teller(run: StepRun, index: int) -> Callable[[int], None]:
    """Tells the size from time to time, and ends the step where it is asked to."""
    last = time.monotonic()

    def tell(size: int) -> None:
        nonlocal last
        run.stop.check()
        if time.monotonic() - last > _EVENT_SECONDS:
            last = time.monotonic()
            run.emit(message=f"sources[{index}]: {size:,} bytes so far")

    return tell
