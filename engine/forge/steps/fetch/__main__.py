"""``python -m forge.steps.fetch ADDRESS [REF]``: print the part of a recipe that pins what is at an address now.

With REF the address is a Git repository's and REF a branch or a tag of it; else it is a file's URL, which is read whole. The
address is judged as in a spec, so that nothing is printed that a recipe would refuse. ``forge data pin`` starts it.
"""

import json
import sys
import tempfile
from pathlib import Path

from pydantic import ValidationError

from forge.errors import StepError
from forge.spec.remote import GitFiles, RemoteFile
from forge.steps.fetch.git import commit_of
from forge.steps.fetch.url import read_url


def main(arguments: list[str]) -> int:
    """Returns the exit status: 1 for what cannot be read, 2 for an address that no recipe may hold."""
    if len(arguments) not in (1, 2):
        print("usage: python -m forge.steps.fetch ADDRESS [REF]", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="forge-pin-") as folder:
            url, name = arguments[0], arguments[1] if len(arguments) == 2 else None
            print(_pin_url(url, Path(folder)) if name is None else _pin_git(url, name, Path(folder)))
    except ValidationError as error:
        told = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]  # never the address itself
        print("\n".join(told), file=sys.stderr)
        return 2
    except StepError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _pin_url(url: str, folder: Path) -> str:
    written = {"url": url, "sha256": "0" * 64}
    try:
        file = RemoteFile.model_validate(written)
    except ValidationError as error:
        if [fault["loc"] for fault in error.errors()] != [("format",)]:
            raise
        file = RemoteFile.model_validate({**written, "format": "txt"})  # the recipe's author says which it is
    _, digest = read_url(file.url, folder / "file", file.max_bytes, file.url, lambda _size: None)
    return f'files:\n  - {{url: {json.dumps(url)}, sha256: "{digest}"}}'


def _pin_git(url: str, name: str, folder: Path) -> str:
    GitFiles.model_validate({"url": url, "commit": "0" * 40, "include": ["*"]})
    if name.startswith("-") or not name.isprintable() or not name:
        raise StepError(f"{name!r} is no name of a branch or a tag")
    return f'git: {{url: {json.dumps(url)}, commit: "{commit_of(url, name, folder)}", include: [..]}}  # {name}'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
