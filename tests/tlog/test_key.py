"""The key of a machine's logs: its owner's alone, or it signs nothing."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from forge.errors import TrustError
from forge.tlog.key import load_key, make_key


def test_a_new_key_is_its_owners_alone_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "log.pem"
    assert make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    before = load_key(path).public_key()
    assert not make_key(path)
    assert load_key(path).public_key() == before


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_log_key_that_others_can_read_or_change_is_not_used(tmp_path: Path, mode: int) -> None:
    make_key(tmp_path / "log.pem")
    (tmp_path / "log.pem").chmod(mode)
    with pytest.raises(TrustError, match=rf"log\.pem: it is readable or writable by others \(mode {mode:04o}\).*chmod 0600"):
        load_key(tmp_path / "log.pem")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_told_and_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "log.pem")
    with pytest.raises(TrustError, match=r"log\.pem: expected a file, found something else"):
        load_key(tmp_path / "log.pem")
