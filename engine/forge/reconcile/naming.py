"""Which of a step's files its message is about, by the names that a user knows them by.

A step knows its inputs by number (``sources[0], file 00057.pdf``); whoever has to mend one needs its path in the repository,
or its address. Pure: a message and names in, lines out.
"""

import re
from collections.abc import Iterator, Mapping

MOST_LISTED = 5
_NUMBER = re.compile(r"source-(\d+)(?:/(\d+))?")


def named_files(message: str, inputs: Mapping[str, Mapping[str, str]], fetched: Mapping[str, str]) -> list[str]:
    """A line for each file that the message names; where it names none, the first few and how many there are.

    ``inputs``: for each input from the commit, what its files are called there, by their names in the step's folder.
    ``fetched``: addresses by ``source-N`` (a repository) and ``source-N/M`` (a file).
    """
    rows = [(name, file, path) for name, files in sorted(inputs.items()) for file, path in files.items()]
    named = [f"{name}/{file} is {path}" for name, file, path in rows if _names(message, name, file)]
    named += [f"{place} is {address}" for place, address in fetched.items() if _names_fetched(message, place)]
    if named:
        return named[:MOST_LISTED]
    listed = [f"{name}/{file} is {path}" for name, file, path in rows] + [f"{at} is {url}" for at, url in fetched.items()]
    if len(listed) <= MOST_LISTED:
        return listed
    return [*listed[:MOST_LISTED], f"and {len(listed) - MOST_LISTED} more: {len(listed)} files and addresses in all"]


def _names(message: str, name: str, file: str) -> bool:
    return any(_stands(message, text) for text in _spellings(name, file))


def _spellings(name: str, file: str) -> Iterator[str]:
    number = _NUMBER.fullmatch(name)
    yield f"{name}/{file}"
    if number is None:
        yield file
    else:
        yield f"sources[{number[1]}], file {file}"


def _names_fetched(message: str, place: str) -> bool:
    number = _NUMBER.fullmatch(place)
    if number is None:
        return False
    if number[2] is None:
        return f"sources[{number[1]}]" in message
    file = re.escape(f"sources[{number[1]}], file ") + rf"0*{number[2]}\."
    return f"sources[{number[1]}].files[{number[2]}]" in message or re.search(file, message) is not None


def _stands(message: str, text: str) -> bool:
    """Whether a name stands in a message by itself, and not as a part of another."""
    return re.search(rf"(?<![\w./-]){re.escape(text)}(?![\w/-]|\.\w)", message) is not None
