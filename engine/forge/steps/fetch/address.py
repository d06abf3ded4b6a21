"""What may be told of an address, and which credentials the step's own environment may hold while it fetches.

Invariant: text of libraries and programs leaves without URLs and without what looks like one's user and password; once
everything is there, credentials leave the environment, before the first byte of the documents is read.
"""

import os
import re

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*|\S+:\S+@\S+|\?\S+=\S+")
_CREDENTIALS = re.compile(r"AWS_\w+|AZURE_\w+|GOOGLE_APPLICATION_CREDENTIALS|FORGE_GIT_CREDENTIALS|NETRC|(?i:\w+_proxy)")
_MAX_CHARACTERS = 300


def without_addresses(text: str) -> str:
    """One line of what another program said, without addresses."""
    line = " ".join(text.split())
    plain = _ADDRESS.sub("(address)", line)
    return "".join(character if character.isprintable() else "?" for character in plain)[:_MAX_CHARACTERS]


def forget_credentials() -> None:
    """Take credentials out of this process's environment: what runs from now on reads documents, which are not trusted."""
    for name in [name for name in os.environ if _CREDENTIALS.fullmatch(name)]:
        del os.environ[name]
