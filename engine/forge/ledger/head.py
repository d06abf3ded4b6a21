"""The ledger's head as this clone has it, held against the last one that it saw.

Invariant: a head is believed only if it descends from the last one seen here and only adds paths to it. What was seen is kept
outside the refs, so that whoever can move a ref cannot move the memory with it. Nothing here reads an entry.
"""

import os
from pathlib import Path

from forge.errors import LedgerError, RepoError
from forge.faults import reached
from forge.repo.repository import Repository


def head_here(repository: Repository, ref: str) -> str | None:
    """The commit of the ledger in this clone; raises LedgerError when it is no advance over the last one seen here."""
    file = seen_file(repository, ref)
    seen = read_text(file)
    commit = repository.ref_target(ref)  # after `seen`: a writer moves the ref first, and only forwards
    if seen and seen != commit:
        check_advance(repository, seen, commit, ref, f"git update-ref {ref} {seen}")
    if commit and commit != seen:
        write_text(file, commit)
    return commit


def seen_file(repository: Repository, ref: str) -> Path:
    """Where the last head of a ledger is remembered."""
    return repository.state_folder / f"ledger-head{ref.removeprefix('refs/forge/ledger')}"


def check_advance(repository: Repository, seen: str, commit: str | None, where: str, remedy: str) -> None:
    """Refuse a head that does not descend from the last one seen, or that removes or changes what that had."""
    lost: list[str] = []
    if commit is not None and commit != seen:
        try:
            lost = [change.path for change in repository.changes(seen, commit) if change.status != "A"]
        except RepoError as error:
            raise LedgerError(f"the ledger cannot be compared with the last head seen here, {seen}: {error}") from error
        if not lost and repository.is_ancestor(seen, commit):
            return
    names = (
        f" It removes or changes {', '.join(lost[:3])}{f' and {len(lost) - 3} more' if len(lost) > 3 else ''}." if lost else ""
    )
    raise LedgerError(
        f"the ledger was rewritten: {where} is now {commit or 'absent'}, which does not descend from {seen}, the last head "
        f"seen here, or does not keep what that had.{names} Find out who moved it. To restore it: {remedy}"
    )


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
