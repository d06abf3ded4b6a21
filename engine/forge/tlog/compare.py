"""Comparing a log of an audit log with the files that it was fed from, line by line.

Invariant: the log is what counts. A line of a file that the log has differently, or has and the file lacks, is a fault; so is a
file in which some lines were never logged although later ones were. What cannot be compared, because its file is not here, is
said.
"""

from collections.abc import Iterator, Sequence
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
class _Walk:
    """Where the comparison stands."""

    files: dict[str, tuple[Path, LineFile]]
    ends: dict[str, int] = field(default_factory=dict)
    """By first line: the bytes that were compared."""
    compared: int = 0
    absent: dict[str, int] = field(default_factory=dict)
    mark: Mark | None = None
    lines: Iterator[bytes] = field(default_factory=lambda: iter(()))

    def take(self, index: int, entry: bytes) -> None:
        """One leaf of the log, in order."""
        mark = mark_of_leaf(entry)
        if mark is not None:
            self._begin(index, mark)
        elif self.mark is None:
            raise TransparencyError(f"leaf {index} is a line, but no mark before it says of which file")
        elif self.mark.first not in self.files:
            self.absent[self.mark.file] = self.absent.get(self.mark.file, 0) + 1
        else:
            self._compare(index, entry, self.mark)

    def _begin(self, index: int, mark: Mark) -> None:
        self.mark = mark
        if mark.first in self.files:
            path, file = self.files[mark.first]
            end = self.ends.get(mark.first, 0)
            if mark.offset != end:
                raise TransparencyError(
                    f"{path}: leaf {index} says that its lines go on at byte {mark.offset}, but they are logged up to {end}"
                )
            self.lines = file.lines(mark.offset)

    def _compare(self, index: int, entry: bytes, mark: Mark) -> None:
        path, _ = self.files[mark.first]
        line = next(self.lines, None)
        if line is None:
            raise TransparencyError(
                f"{path}: it was cut: it ends before the line that is leaf {index} of the log: {_shown(entry)}"
            )
        if leaf_of_line(line) != entry:
            raise TransparencyError(
                f"{path}: byte {self.ends.get(mark.first, 0)}: it has {_shown(line)}, but leaf {index} of the log is "
                f"{_shown(entry)}: the line was altered, removed or moved"
            )
        self.ends[mark.first] = self.ends.get(mark.first, 0) + len(line) + 1
        self.compared += 1


def compare_files(view: View, folders: Sequence[Path]) -> Compared:
    """Check a whole log (``check_log``) and its lines against files; raises TransparencyError with the first fault."""
    with ExitStack() as stack:
        paths: list[tuple[Path, LineFile]] = []
        for path in (path for folder in folders for path in line_files(folder)):
            file = LineFile(path)
            stack.callback(file.close)
            paths.append((path, file))
        walk = _Walk({file.first: (path, file) for path, file in reversed(paths) if file.first is not None})
        check_log(view, walk.take)
        waiting = 0
        for path, file in paths:
            if file.first is None or walk.files[file.first][1] is not file:
                continue
            if file.first not in walk.ends and path.name in walk.absent:
                raise TransparencyError(
                    f"{path}:1: the line is not the one that the log has first of this file: it was altered, or the file that "
                    "was logged was moved away and its name used again before a feed saw it (name its folder as well)"
                )
            waiting += sum(1 for _ in file.lines(walk.ends.get(file.first, 0)))
    return Compared(walk.compared, walk.absent, waiting)


def _shown(line: bytes) -> str:
    return repr(line[:200])[1:] + ("…" if len(line) > 200 else "")
