"""The gateway's audit lines are in their transparency log a moment after the answer, and no request waits for it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.errors import RefusedError, TrustError
from forge.serve.transparency import AuditLogPlace, logging_lines
from forge.tlog.compare import compare_files
from forge.tlog.key import load_key, make_key
from forge.tlog.lines import find_request
from forge.tlog.log import View, read_log
from forge.tlog.note import VerifierKey, verifier_key
from forge.tlog.proof import check_proof, prove

ORIGIN = "example.org/forge/audit/test"


@pytest.fixture
def place(tmp_path: Path) -> AuditLogPlace:
    make_key(tmp_path / "log.pem")
    return AuditLogPlace(tmp_path / "log", ORIGIN, tmp_path / "log.pem", tmp_path / "seals.json", interval_seconds=0.02)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def fresh(rig: Any) -> Iterator[Any]:
    """The gateway with an audit folder that holds nothing but what this test asks for."""
    for file in rig.audit_folder.iterdir():
        file.unlink()
    yield rig
    for file in rig.audit_folder.iterdir():
        file.unlink()


def key_of(place: AuditLogPlace) -> VerifierKey:
    return verifier_key(ORIGIN, load_key(place.key))


def view(place: AuditLogPlace) -> View:
    return read_log(place.folder, key_of(place))


def test_what_the_gateway_answers_is_logged_and_can_be_proved(fresh: Any, place: AuditLogPlace, said: list[str]) -> None:
    before = fresh.chat()
    with logging_lines(place, fresh.audit_folder, said.append):
        assert compare_files(view(place), [fresh.audit_folder]).lines == 1, "what was left over is logged before it begins"
        replies = [fresh.chat(), fresh.chat("stranger"), fresh.send("GET", "/nothing"), fresh.chat(stream=True)]
        fresh.eventually(lambda: view(place).size == 6)
        late = fresh.chat()
    ids = [reply.headers["x-request-id"] for reply in (before, *replies, late)]
    found = compare_files(view(place), [fresh.audit_folder])
    assert (found.lines, found.waiting, found.absent) == (6, 0, {}), "the last line is logged at the end"
    for number, request_id in enumerate(ids, 1):
        assert find_request(view(place), request_id) == number
    proof = prove(view(place), find_request(view(place), ids[2]))
    assert check_proof(proof, key_of(place)).checkpoint.size == 7
    assert f'"request_id":"{ids[2]}"' in proof.leaf
    assert said == []


def test_a_log_that_cannot_be_written_delays_no_request_and_is_caught_up(
    fresh: Any, place: AuditLogPlace, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def hang_then_fail(_descriptor: int) -> None:
        go_on.wait(20)
        raise OSError(28, "No space left on device")

    with logging_lines(place, fresh.audit_folder, said.append):
        monkeypatch.setattr("forge.tlog.lines.os.fsync", hang_then_fail)
        began = time.monotonic()
        assert [fresh.chat().status for _ in range(3)] == [200] * 3
        assert time.monotonic() - began < 5
        go_on.set()
        fresh.eventually(lambda: bool(said))
        monkeypatch.undo()
        fresh.eventually(lambda: len(said) == 2)
    assert "No space left" in said[0]
    assert said[1:] == ["the audit log's lines are in its transparency log again"]
    assert compare_files(view(place), [fresh.audit_folder]).lines == 3


def test_an_agent_does_not_start_on_lines_that_contradict_the_log(fresh: Any, place: AuditLogPlace, said: list[str]) -> None:
    replies = [fresh.chat() for _ in range(3)]
    with logging_lines(place, fresh.audit_folder, said.append):
        pass
    (file,) = fresh.audit_folder.iterdir()
    file.write_bytes(file.read_bytes().replace(replies[1].headers["x-request-id"].encode(), b"another"))
    with (
        pytest.raises(TrustError, match=":2: the line is not what the log"),
        logging_lines(place, fresh.audit_folder, said.append),
    ):
        pytest.fail("it began")


def test_two_agents_do_not_share_a_log(
    fresh: Any, place: AuditLogPlace, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge.tlog.log.WAIT_SECONDS", 0.1)
    with (
        logging_lines(place, fresh.audit_folder, said.append),
        pytest.raises(RefusedError, match="another process writes the log"),
        logging_lines(place, fresh.audit_folder, said.append),
    ):
        pytest.fail("it began")


def test_without_its_key_an_agent_does_not_start(fresh: Any, place: AuditLogPlace, said: list[str]) -> None:
    place.key.unlink()
    with pytest.raises(TrustError, match="forge log init"), logging_lines(place, fresh.audit_folder, said.append):
        pytest.fail("it began")


def test_without_a_name_there_is_no_log(fresh: Any, place: AuditLogPlace, said: list[str]) -> None:
    with logging_lines(None, fresh.audit_folder, said.append):
        assert fresh.chat().status == 200
    assert not place.folder.exists()
