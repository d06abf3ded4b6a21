"""Comparing a log of an audit log with the files that it was fed from, line by line.

Invariant: the log is what counts. A line of a file that the log has differently, or has and the file lacks, is a fault; so is a
file in which some lines were never logged although later ones were. What cannot be compared, because its file is not here, is
said.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from forge.errors import TransparencyError
from forge.tlog.check import check_log
from forge.tlog.lines import LineFile, Mark, leaf_of_line, line_files, mark_of_leaf
from forge.tlog.log import View


@dataclass(frozen=True)
class Compared:
    """What was found, where nothing was at fault."""

    lines: int
    """Lines of files that are in the log as they are."""
    absent: dict[str, int]
    """Files that are not here, and how many leaves came from each: their lines could not be compared."""
    waiting: int
    """Lines that no feed has logged yet."""


@dataclass
class _File:
    """A file that is here, and how far the log has it."""

    path: Path
    lines: LineFile
    end: int = 0
    is_logged: bool = False


@dataclass
class _Walk:
    """Where the comparison stands."""

    files: Mapping[str, list[_File]]
    """By first line: parts of lines that kills have left behind may be alike in several."""
    compared: int = 0
    absent: dict[str, int] = field(default_factory=dict)
    mark: Mark | None = None
    file: _File | None = None
    lines: Iterator[bytes] = field(default_factory=lambda: iter(()))

    def take(self, index: int, entry: bytes) -> None:
        """One leaf of the log, in order."""
        mark = mark_of_leaf(entry)
        if mark is not None:
            self._begin(index, mark)
        elif self.mark is None:
            raise TransparencyError(f"leaf {index} is a line, but no mark before it says of which file")
        elif self.file is None:
            self.absent[self.mark.file] = self.absent.get(self.mark.file, 0) + 1
        else:
            self._compare(index, entry, self.file)

    def _begin(self, index: int, mark: Mark) -> None:
        found = self.files.get(mark.first, [])
        self.mark = mark
        self.file = next((file for file in found if file.path.name == mark.file), found[0] if found else None)
        if self.file is None:
            return
        if mark.offset != self.file.end:
            raise TransparencyError(
                f"{self.file.path}: leaf {index} says that its lines go on at byte {mark.offset}, but they are logged up to "
                f"byte {self.file.end}"
            )
        self.file.is_logged = True
        self.lines = self.file.lines.lines(mark.offset)

    def _compare(self, index: int, entry: bytes, file: _File) -> None:
        line = next(self.lines, None)
        if line is None:
            raise TransparencyError(
                f"{file.path}: it was cut: it ends before the line that is leaf {index} of the log: {_shown(entry)}"
            )
        if leaf_of_line(line) != entry:
            raise TransparencyError(
                f"{file.path}: byte {file.end}: it has {_shown(line)}, but leaf {index} of the log is {_shown(entry)}: the "
                "line was altered, removed or moved"
            )
        file.end += len(line) + 1
        self.compared += 1


def compare_files(view: View, folders: Sequence[Path]) -> Compared:
    """Check a whole log (``check_log``) and its lines against files; raises TransparencyError with the first fault."""
    with ExitStack() as stack:
        files: list[_File] = []
        by_first: dict[str, list[_File]] = {}
        for path in (path for folder in folders for path in line_files(folder)):
            file = _File(path, LineFile(path))
            stack.callback(file.lines.close)
            if file.lines.first is not None:
                files.append(file)
                by_first.setdefault(file.lines.first, []).append(file)
        walk = _Walk(by_first)
        check_log(view, walk.take)
        return Compared(walk.compared, walk.absent, sum(_waiting(file, walk) for file in files))


def _waiting(file: _File, walk: _Walk) -> int:
    """How many lines of a file the log does not have yet; raises TransparencyError for one that hides what was logged."""
    if not file.is_logged:
        if file.path.name in walk.absent:
            raise TransparencyError(
                f"{file.path}:1: the line is not the one that the log has first of this file: it was altered, or the file that "
                "was logged was moved away and its name used again before a feed saw it (name its folder as well)"
            )
        if any(other.is_logged and other.path.name == file.path.name for other in walk.files[file.lines.first or ""]):
            return 0  # a copy of it in another folder
    return sum(1 for _ in file.lines.lines(file.end))


def _shown(line: bytes) -> str:
    return repr(line[:200])[1:] + ("…" if len(line) > 200 else "")
