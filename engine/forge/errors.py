"""The one tree of errors, by origin of the fault.

A message names the object, what was expected, what was found, and what to do. The command line prints the message
without a traceback and ends with the class's exit code (docs/design.md, "Command line").
"""

from dataclasses import dataclass


class ForgeError(Exception):
    """Anything Forge says to a user; never raised itself."""

    exit_code = 1


class UsageError(ForgeError):
    """The command line or forge.toml asks for something that does not exist or is not valid."""

    exit_code = 2


def printable(text: str) -> str:
    """Text from a file as one line that neither a terminal nor a CI log takes for a command of its own."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def printable_lines(text: str) -> str:
    """The same of a text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


@dataclass(frozen=True, order=True)
class Diagnostic:
    """One fault in one place of one file; line and column count from 1, as editors do."""

    path: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return printable(f"{self.path}:{self.line}:{self.column}: {self.message}")


class SpecError(ForgeError):
    """One or more specs are not valid; carries every diagnostic that was found, in order of place."""

    exit_code = 2

    def __init__(self, diagnostics: list[Diagnostic]) -> None:
        self.diagnostics = tuple(sorted(diagnostics))
        super().__init__("\n".join(str(diagnostic) for diagnostic in self.diagnostics))


class RepoError(ForgeError):
    """The Git repository lacks or hides something that was asked for (a commit, an LFS object, a submodule's file)."""

    exit_code = 2


class PlanError(ForgeError):
    """The resources are valid one by one, but no plan can be made of them."""

    exit_code = 2


class StoreError(ForgeError):
    """An artifact is absent from the store, damaged, or cannot be written."""


class StepError(ForgeError):
    """A step failed; the message names the file and the cause where there is one."""


class AssessError(ForgeError):
    """Data cannot be assessed yet: it was not curated, or what its curation says of it is gone."""


class LedgerError(ForgeError):
    """The ledger cannot be read or appended to, or contradicts itself."""


class TransparencyError(ForgeError):
    """A transparency log cannot be read or appended to, or its files contradict each other."""


class RefusedError(ForgeError):
    """What was asked is possible but not allowed now: another holder of the lock, a policy, a stale plan."""

    exit_code = 4


class TrustError(RefusedError):
    """A signature, digest or link of the chain of evidence does not hold, or no trust root is pinned."""


class ServeError(ForgeError):
    """The serving agent or its engine cannot start or went away."""
