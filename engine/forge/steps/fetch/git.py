"""Files of one commit of a Git repository that nobody here trusts.

    fetch the commit alone -> list its tree -> choose by globs -> refuse what is no plain file -> write each file

Invariant: the files depend on the commit and the globs alone. Only that commit is fetched (shallow), or taken from a pack
that was kept; either way Git hashes every object anew (``index-pack``). Nothing is checked out and no program of the
repository or of the user's configuration is run: no hooks, filters, submodules, credential helpers or remote helpers, and
nobody is asked for anything. Names of the repository become names of no file here: files are numbered, and a name is text.
Sizes, the number of entries (a tree may hold itself a billion times) and the time are bounded.
"""

import codecs
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pathspec

from forge.errors import StepError
from forge.spec.formats import LANGUAGES, format_of
from forge.spec.remote import GitFiles
from forge.steps.fetch.address import without_addresses
from forge.steps.fetch.downloads import Downloads
from forge.steps.fetch.repository import GitError, Repository

MAX_ENTRIES = 1_000_000
_MAX_NAMED = 20
_MOST_FAULTS = 1000
"""So many are enough to say that the globs are wrong."""
_MAX_PATH_BYTES = 4096
_MAX_ROW_BYTES = 1024 * 1024
"""Of the listing: folders nested so deep are no repository's."""
_CHUNK_BYTES = 1024 * 1024
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_TEXT = {*LANGUAGES, "txt", "md", "markdown"}


@dataclass(frozen=True)
class GitFile:
    """One file that was written."""

    name: str
    """In the folder that it was written to."""
    path: str
    """In its repository."""
    format: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: str
    name: str
    """Of the object."""
    size: int
    path: bytes


def fetch_commit(
    source: GitFiles, target: Path, scratch: Path, place: str, downloads: Downloads, progress: Callable[[int], None]
) -> list[GitFile]:
    """Write the files that the globs choose to ``target``, in the order of their paths; Git works in ``scratch``.

    ``place`` says in messages which source it is. Raises StepError for a commit that cannot be had, for what is chosen and is
    no plain file of a known format, and for sizes beyond the source's.
    """
    git = Repository(scratch, f"{place} ({source.place})", source.max_bytes)
    git.prepare(source.commit)
    _have(git, source, downloads, progress)
    chosen = _chosen(git, source)
    return _write(git, chosen, target, progress)


def commit_of(url: str, name: str, scratch: Path) -> str:
    """The commit that a branch or a tag of a repository names now; raises StepError where it has none of that name."""
    git = Repository(scratch, url, 0)
    git.prepare("")
    try:
        listed = git.run("ls-remote", "--exit-code", "--", url, name, f"{name}^{{}}", at=None)
    except GitError as error:
        raise StepError(f"{url}: no branch or tag {name!r} can be read there: {error or 'it has none of that name'}") from error
    found = {ref: sha for sha, _, ref in (line.partition("\t") for line in listed.splitlines())}
    peeled = {ref.removesuffix("^{}"): sha for ref, sha in found.items() if ref.endswith("^{}")}  # what an annotated tag names
    commits = {sha for ref, sha in {**found, **peeled}.items() if not ref.endswith("^{}")}
    if len(commits) != 1:
        raise StepError(f"{url}: {name!r} names {', '.join(sorted(found))}: write the whole name of one")
    return commits.pop()


def _have(git: Repository, source: GitFiles, downloads: Downloads, progress: Callable[[int], None]) -> None:
    """The commit and all it holds as objects of the repository."""
    name = f"git-{source.commit}.pack"
    kept = downloads.find(name)
    if kept is not None:
        try:
            git.run("index-pack", "--stdin", data=kept)
            git.run("cat-file", "-e", f"{source.commit}^{{tree}}")
        except (GitError, FileNotFoundError):
            downloads.drop(name)  # not what its name says, or just removed: fetched anew
            for path in git.packs.iterdir():
                path.unlink()
        else:
            return

    def watch() -> None:
        size = sum(path.stat().st_size for path in git.packs.glob("*pack*") if path.exists())
        progress(size)
        if size > source.max_bytes:
            raise StepError(
                f"{git.what}: more than {source.max_bytes:,} bytes to fetch: raise its `max_bytes` if that is right"
            )

    try:
        git.run(
            "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--keep", "--",
            source.url, source.commit, watch=watch,
        )  # fmt: skip
        kind = git.run("cat-file", "-t", source.commit)
    except GitError as error:
        watch()  # it may have ended because it was too large
        raise StepError(
            f"{git.what} cannot be fetched: {error}; check the address, that the host still has this commit and that this "
            "machine may read it (docs/data.md says where credentials come from), then apply again"
        ) from error
    watch()
    if kind != "commit":
        commit = git.run("rev-parse", f"{source.commit}^{{commit}}") if kind == "tag" else ""
        raise StepError(f"{git.what} names a {kind}, not a commit: pin the commit{f' {commit}' if commit else ''}")
    packs = list(git.packs.glob("*.pack"))
    if len(packs) == 1:
        downloads.keep(name, packs[0])


def _chosen(git: Repository, source: GitFiles) -> list[_Entry]:
    """The entries that the globs choose, by path; raises StepError that names what cannot be used."""
    wanted, unwanted = (
        pathspec.PathSpec.from_lines("gitignore", [f"/{glob}" for glob in globs]) for globs in (source.include, source.exclude)
    )
    chosen: list[_Entry] = []
    faults: list[str] = []
    size = 0
    for entry in _entries(git, source.commit):
        if len(entry.path) > _MAX_PATH_BYTES:
            raise StepError(
                f"{git.what}: it has a path of {len(entry.path):,} bytes, as no repository should: take another one"
            )
        try:
            path = entry.path.decode()
        except UnicodeDecodeError:
            path = entry.path.decode(errors="backslashreplace")
        if entry.mode == "160000" and any(glob.startswith(f"{path}/") for glob in source.include):
            faults.append(f"{path!r} is a submodule, which is a repository of its own: make it a source of its own")
        as_one_line = path if path.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in path)
        if not wanted.match_file(as_one_line) or unwanted.match_file(as_one_line):  # no glob matches over a line's end
            continue
        fault = _fault(entry, path)
        if fault is not None:
            faults.append(f"{path!r} {fault}")
        if len(faults) >= _MOST_FAULTS:
            _raise(git, faults)
        chosen.append(entry)
        size += entry.size
        if size > source.max_bytes:
            raise StepError(
                f"{git.what}: the files that `include` matches have more than {source.max_bytes:,} bytes: match fewer, or "
                "raise `max_bytes` if that is right"
            )
    _raise(git, faults)
    if not chosen:
        globs = ", ".join(source.include)
        raise StepError(f"{git.what}: none of its files matches `include` ({globs}) and not `exclude`: correct the globs")
    return sorted(chosen, key=lambda entry: entry.path)


def _raise(git: Repository, faults: list[str]) -> None:
    if faults:
        more = f" (and {len(faults) - _MAX_NAMED} more)" if len(faults) > _MAX_NAMED else ""
        raise StepError(
            f"{git.what}: {len(faults)} of the files that `include` matches cannot be used; list them in `exclude`, or narrow "
            "`include`:" + "".join(f"\n  {fault}" for fault in faults[:_MAX_NAMED]) + more
        )


def _fault(entry: _Entry, path: str) -> str | None:
    """Why a chosen entry cannot be used, as far as the listing says."""
    if entry.mode == "120000":
        return "is a symbolic link, which leads to another file or out of the repository"
    if entry.mode == "160000":
        return "is a submodule, which is a repository of its own: make it a source of its own"
    if not entry.mode.startswith("100"):
        return f"has the mode {entry.mode}, which no plain file has"
    if format_of(path) is None:
        return "has an ending that says neither a format nor a language"
    return _fault_of_name(entry, path)


def _fault_of_name(entry: _Entry, path: str) -> str | None:
    parts = path.split("/")
    if {"", ".", ".."} & set(parts) or ".git" in (part.lower() for part in parts) or "\\" in path:
        return "is a path that no repository should hold"
    if not path.isprintable() or entry.path != path.encode():
        return "is a name with control characters, or no UTF-8"
    return None


def _entries(git: Repository, commit: str) -> Iterator[_Entry]:
    """All files of the commit's tree, as Git lists them."""
    with git.started(["ls-tree", "-r", "-z", "-l", "--full-tree", commit]) as process:
        if process.stdout is None:
            raise TypeError("the listing was asked for without a pipe")
        rest, count = b"", 0
        while block := process.stdout.read1(_CHUNK_BYTES):  # type: ignore[attr-defined]
            git.check_time()
            *rows, rest = (rest + block).split(b"\0")
            count += len(rows)
            if count > MAX_ENTRIES or len(rest) > _MAX_ROW_BYTES:
                raise StepError(f"{git.what}: its tree has more than {MAX_ENTRIES:,} entries: fetch a smaller repository")
            for row in rows:
                head, _, path = row.partition(b"\t")
                mode, _, name, size = head.decode().split()
                yield _Entry(mode, name, 0 if size == "-" else int(size), path)
        errors = process.stderr.read() if process.stderr is not None else b""
        if process.wait():
            raise StepError(f"{git.what}: its tree cannot be listed: {without_addresses(errors.decode(errors='replace'))}")


def _write(git: Repository, entries: list[_Entry], target: Path, progress: Callable[[int], None]) -> list[GitFile]:
    """Write each file; raises StepError that names those whose content cannot be used."""
    written: list[GitFile] = []
    faults: list[str] = []
    size = 0
    with git.started(["cat-file", "--batch"]) as process:
        if process.stdin is None or process.stdout is None:
            raise TypeError("the files were asked for without pipes")
        for number, entry in enumerate(entries):
            process.stdin.write(f"{entry.name}\n".encode())
            process.stdin.flush()
            head = process.stdout.readline().split()
            if head != [entry.name.encode(), b"blob", str(entry.size).encode()]:
                raise StepError(f"{git.what}: {entry.path.decode()!r} is not in what was fetched: the repository lacks objects")
            path = entry.path.decode()
            kind = format_of(path) or ""
            name = f"{number:06d}.{kind}"
            digest, fault = _copy(process.stdout, target / name, entry.size, kind in _TEXT)
            process.stdout.read(1)  # the newline after each object
            if fault is not None:
                faults.append(f"{path!r} {fault}")
            written.append(GitFile(name, path, kind, entry.size, digest))
            size += entry.size
            progress(size)
            git.check_time()
    _raise(git, faults)
    return written


def _copy(stream: IO[bytes], target: Path, size: int, is_text: bool) -> tuple[str, str | None]:
    """Copy so many bytes; returns their sha256, and why they cannot be used."""
    digest, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    fault: str | None = None
    left = size
    with target.open("wb") as written:
        while left:
            chunk = stream.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise StepError("Git ended in the middle of a file: apply again")
            if left == size and chunk.startswith(_LFS_POINTER):
                fault = "is a pointer of Git LFS: what it names is not fetched; give those files as `files`, by their URLs"
            left -= len(chunk)
            if is_text and fault is None:
                fault = _no_text(decoder, chunk, is_last=not left)
            digest.update(chunk)
            written.write(chunk)
    return digest.hexdigest(), fault


def _no_text(decoder: codecs.IncrementalDecoder, chunk: bytes, is_last: bool) -> str | None:
    if b"\0" in chunk:
        return "holds bytes of value 0, as no text does"
    try:
        decoder.decode(chunk, is_last)
    except UnicodeDecodeError:
        return "is not UTF-8"
    return None
