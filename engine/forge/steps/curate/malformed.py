"""What the readers of other people's formats raise for files that are not what they say they are, and how that is told."""

import struct
import zipfile
import zlib

MALFORMED = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, OverflowError, RecursionError,
    NotImplementedError, EOFError, zlib.error, struct.error, zipfile.BadZipFile,
)  # fmt: skip
"""Besides errors of their own."""


def said(error: BaseException) -> str:
    """The first line of what a reader says."""
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
