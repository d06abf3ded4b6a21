"""What an explanation asks of the past, and which files of the commit made an input another one than before.

Types and pure functions: who explains brings the ledger's records and Git's answers.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from forge.contract.record import Record
from forge.errors import printable
from forge.plan.blame import Blame

_MOST_FILES = 10
_NUMBERED = re.compile(r"[0-9]{5}(\..*)?")
"""Names of files that are read in the order of their paths (``repo.desired``)."""


class Past(Blame, Protocol):
    """The ledger's history and Git's, as far as an explanation asks; asked only for what changed."""

    def records(self, step_id: str) -> Iterator[tuple[int, Record]]:
        """Every record under a step id with its number in the ledger, newest first."""
        ...

    def blobs(self, commit: str | None, paths: Iterable[str]) -> Mapping[str, str] | None:
        """Git's ids of those of some files that a commit holds (None: of what is planned); None where it is not here."""
        ...


def changed_files(past: Past, old: tuple[str, Mapping[str, str]], new: tuple[str | None, Mapping[str, str]]) -> Iterator[str]:
    """A line for each file that differs between two readings of an input: (commit, file in the artifact -> its path)."""
    (older, before), (newer, after) = old, new
    had, has = past.blobs(older, before.values()), past.blobs(newer, after.values())
    if had is None or has is None:
        missing = older if had is None else newer
        yield f"which of its files changed cannot be told: commit {(missing or '')[:12]} is not in this clone"
        return
    if Counter(had.values()) == Counter(has.values()):
        renamed = "; ".join(_renames(had, has))
        yield f"{_why_names_matter(before, after, had, has)}: {renamed}{_by(past.files_since(had, has, older, newer))}"
        return
    differing = sorted(path for path in {*had, *has} if had.get(path) != has.get(path))
    for path in differing[:_MOST_FILES]:
        if not before or not after:  # the whole input is new, or is gone: its files may lie where they lay
            yield f"{printable(path)} {'is read now' if not before else 'is read no longer'}"
            continue
        what = "was added" if path not in had else "was removed" if path not in has else "has other bytes"
        yield f"{printable(path)} {what}{_by(past.files_since({path} & had.keys(), {path} & has.keys(), older, newer))}"
    if len(differing) > _MOST_FILES:
        yield f"and {len(differing) - _MOST_FILES} more files"


def _why_names_matter(
    before: Mapping[str, str], after: Mapping[str, str], had: Mapping[str, str], has: Mapping[str, str]
) -> str:
    """What the same bytes under other names change; numbered files are read in the order of their paths."""
    if not all(_NUMBERED.fullmatch(name) for name in (*before, *after)):
        return "files were renamed, and their names are part of what is read"
    orders = [[blobs.get(files[name]) for name in sorted(files)] for files, blobs in ((before, had), (after, has))]
    if orders[0] == orders[1]:
        return "the ending that says how a file is read was changed by renaming"
    return "file order changed by renaming"


def _renames(had: Mapping[str, str], has: Mapping[str, str]) -> Iterator[str]:
    gone = {blob: path for path, blob in had.items() if path not in has or has[path] != blob}
    pairs = [(gone[blob], path) for path, blob in has.items() if blob in gone and had.get(path) != blob]
    for old, new in pairs[:_MOST_FILES]:
        yield f"{printable(old)} -> {printable(new)}"
    if len(pairs) > _MOST_FILES:
        yield f"and {len(pairs) - _MOST_FILES} more"


def _by(commit: str | None) -> str:
    return f", by commit {commit[:12]}" if commit else ""
