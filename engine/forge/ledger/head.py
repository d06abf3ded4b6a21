"""The ledger's head as this clone has it, held against the last one that it saw.

Invariant: a head is believed only if it descends from the last one seen here and only adds paths to it. What was seen is kept
outside the refs, so that whoever can move a ref cannot move the memory with it. Nothing here reads an entry.

Which ref is the ledger, a commit says (``ledger.ref``), and anybody may write one. So what was seen under a pinned root binds
whatever ref is named: a ledger under another name is the same one, or a later state of it.
"""

import os
from pathlib import Path

from forge.canonical import hex_of
from forge.errors import LedgerError, RepoError
from forge.faults import reached
from forge.repo.repository import Repository

_BY_ROOT = "ledger-of-"


def head_here(repository: Repository, ref: str, root: str | None = None) -> str | None:
    """The commit of the ledger in this clone; raises LedgerError when it is no advance over the last one seen here.

    ``root``: the digest of the trust root that is pinned; what was seen under it by another ref counts as well then.
    """
    file = seen_file(repository, ref)
    seen = read_text(file)
    commit = repository.ref_target(ref)  # after `seen`: a writer moves the ref first, and only forwards
    if seen and seen != commit:
        check_advance(repository, seen, commit, ref, f"git update-ref {ref} {seen}")
    if root is not None:
        hold_to_root(repository, ref, commit, root)
    if commit and commit != seen:
        write_text(file, commit)
    return commit


def hold_to_root(repository: Repository, ref: str, commit: str | None, root: str) -> None:
    """Refuse a head that leaves out what was seen here under the same root, by whatever ref; remember it otherwise.

    Args:
        repository: the clone, whose memory it is.
        ref: which ref is the ledger now.
        commit: its head; None where there is no such ref.
        root: the digest of the trust root that is pinned.

    Raises LedgerError, which names both refs, both heads, and what to do.
    """
    file = root_file(repository, root)
    for seen_ref, seen in _seen_under(repository, ref, file):
        names = _why_no_advance(repository, seen, commit) if seen_ref != ref else None
        if names is not None:
            raise LedgerError(
                f"another ledger is named: {ref} is {commit or 'absent'}, which does not descend from {seen}, the head of "
                f"{seen_ref} that was seen here under the pinned trust root, or does not keep what that had.{names} Whoever "
                f"can push a commit can name another ref ([ledger] ref in forge.toml): name {seen_ref} again; or, for another "
                f"name of the same ledger, `git update-ref {ref} {seen}`. That what was seen counts for nothing from now on, "
                f"only you can say, here: `rm {file}`"
            )
    line = f"{ref} {commit}"
    if commit is not None and read_text(file) != line:
        write_text(file, line)


def root_file(repository: Repository, root: str) -> Path:
    """Where the last head that was seen under a root is remembered, with its ref."""
    return repository.state_folder / f"{_BY_ROOT}{hex_of(root)[:16]}"


def _seen_under(repository: Repository, ref: str, file: Path) -> list[tuple[str, str]]:
    """Refs and heads that bind. Engines before remembered heads by ref alone: those bind where no root is remembered yet."""
    known = read_text(file)
    if known is not None:
        name, _, commit = known.partition(" ")
        return [(name, commit)]
    if any(repository.state_folder.glob(f"{_BY_ROOT}*")) or seen_file(repository, ref).exists():
        return []
    earlier = {path: read_text(path) for path in repository.state_folder.glob("ledger-head*") if "." not in path.name}
    return [(f"refs/forge/ledger{path.name.removeprefix('ledger-head')}", commit) for path, commit in earlier.items() if commit]


def seen_file(repository: Repository, ref: str) -> Path:
    """Where the last head of a ledger is remembered."""
    return repository.state_folder / f"ledger-head{ref.removeprefix('refs/forge/ledger')}"


def check_advance(repository: Repository, seen: str, commit: str | None, where: str, remedy: str) -> None:
    """Refuse a head that does not descend from the last one seen, or that removes or changes what that had."""
    names = _why_no_advance(repository, seen, commit)
    if names is not None:
        raise LedgerError(
            f"the ledger was rewritten: {where} is now {commit or 'absent'}, which does not descend from {seen}, the last head "
            f"seen here, or does not keep what that had.{names} Find out who moved it. To restore it: {remedy}"
        )


def _why_no_advance(repository: Repository, seen: str, commit: str | None) -> str | None:
    """None for the same head or an advance over it; else which paths are lost, as a sentence that may be empty."""
    if commit == seen:
        return None
    lost: list[str] = []
    if commit is not None:
        try:
            lost = [change.path for change in repository.changes(seen, commit) if change.status != "A"]
        except RepoError as error:
            raise LedgerError(f"the ledger cannot be compared with the last head seen here, {seen}: {error}") from error
        if not lost and repository.is_ancestor(seen, commit):
            return None
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    return f" It removes or changes {', '.join(lost[:3])}{more}." if lost else ""


def read_text(path: Path) -> str | None:
    """What was remembered in a file; None where nothing was."""
    try:
        return path.read_text("utf-8", "replace").strip() or None
    except FileNotFoundError:
        return None


def write_text(path: Path, text: str) -> None:
    """Replace a file whole, on the disk before it has its name: an empty one would forget what was seen."""
    point = "remote.seen" if "." in path.name else "ledger.seen"
    reached(f"{point}.before")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise LedgerError(f"cannot remember the ledger's head in {path}: {error}") from error
    reached(f"{point}.after")
