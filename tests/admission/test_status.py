"""An agent's status: believed when the agent's key signed it for this environment; anything else is a named fault."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import commit_all, git, new_repository

from forge.admission.status import StatusFault, StatusWatch, judge_status, read_status
from forge.attest.authority import Authority, Signers
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.statements import STATUS_PAYLOAD_TYPE
from forge.attest.trust import TrustRoot, read_trust_root
from forge.canonical import canonical_json, digest_of_bytes
from forge.contract.kinds import Role
from forge.contract.status import AgentState, AgentStatus
from forge.ledger.refs import LocalRefs, write_blob
from forge.ledger.remote import RemoteRefs
from forge.ledger.status import publish, status_ref
from forge.repo.repository import Repository

STATUS = AgentStatus(
    environment="prod",
    deployment="docs-prod",
    model="docs",
    release=digest_of_bytes(b"release"),
    weights=digest_of_bytes(b"weights"),
    policy=digest_of_bytes(b"policy"),
    wanted=digest_of_bytes(b"release"),
    state=AgentState.READY,
    is_serving=True,
    time="2026-01-01T00:00:00.000+00:00",
    since="2026-01-01T00:00:00.000+00:00",
    engine_restarts=0,
    agent="a" * 32,
    host="rack-1",
    beat=1,
)


@pytest.fixture(scope="session")
def signers(config_home: Path) -> Signers:
    return signers_of(read_trust_root(config_home))


def signers_of(root: TrustRoot) -> Signers:
    return Authority(root).signers(Role.AGENT, "2026-01-01T00:00:00+00:00")


@pytest.fixture(scope="session")
def sealed(config_home: Path) -> Callable[..., bytes]:
    """A status as bytes, signed by a role: ``sealed(status or payload, role)``."""

    def make(said: AgentStatus | bytes = STATUS, role: Role = Role.AGENT, kind: str = STATUS_PAYLOAD_TYPE) -> bytes:
        payload = said if isinstance(said, bytes) else said.to_bytes()
        return seal(payload, signer_for(role, config_home), kind)

    return make


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    folder = new_repository(tmp_path / "repository")
    commit_all(folder)
    return Repository(folder)


def test_what_an_agent_published_is_read_back(repository: Repository, signers: Signers, sealed: Callable[..., bytes]) -> None:
    refs = LocalRefs(repository)
    assert read_status(refs, repository, "prod", signers).fault is StatusFault.ABSENT
    assert publish(refs, repository, "prod", sealed()) is None
    reading = read_status(refs, repository, "prod", signers)
    assert (reading.status, reading.fault) == (STATUS, None)
    later = STATUS.model_copy(update={"beat": 2, "state": AgentState.DEGRADED, "reason": "vLLM died"})
    assert publish(refs, repository, "prod", sealed(later)) is not None
    assert read_status(refs, repository, "prod", signers).status == later


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.AGENT])
def test_another_roles_key_is_not_believed(signers: Signers, sealed: Callable[..., bytes], role: Role) -> None:
    reading = judge_status("prod", sealed(STATUS, role), signers)
    assert (reading.status, reading.fault) == (None, StatusFault.UNTRUSTED)
    assert "no valid signature of the role agent" in reading.message


def test_a_root_without_the_role_believes_no_agent(config_home: Path, sealed: Callable[..., bytes]) -> None:
    root = read_trust_root(config_home)
    older = root.model_copy(update={"roles": {role: keys for role, keys in root.roles.items() if role is not Role.AGENT}})
    reading = judge_status("prod", sealed(), signers_of(older))
    assert reading.fault is StatusFault.UNTRUSTED
    assert "forge keys init" in reading.message


def test_a_status_of_another_environment_does_not_count_here(signers: Signers, sealed: Callable[..., bytes]) -> None:
    reading = judge_status("staging", sealed(), signers)
    assert (reading.status, reading.fault) == (None, StatusFault.MISPLACED)
    assert "refs/forge/status/staging: it is the status of 'prod'" in reading.message


def test_a_statement_of_the_agents_key_of_another_type_is_no_status(signers: Signers, sealed: Callable[..., bytes]) -> None:
    reading = judge_status("prod", sealed(STATUS, Role.AGENT, "application/vnd.in-toto+json"), signers)
    assert reading.fault is StatusFault.UNTRUSTED
    assert "payload type" in reading.message


def test_a_newer_schema_is_refused_by_its_number(signers: Signers, sealed: Callable[..., bytes]) -> None:
    newer = canonical_json({**json.loads(STATUS.to_bytes()), "schema_version": 2, "mood": "cheerful"})
    reading = judge_status("prod", sealed(newer), signers)
    assert reading.fault is StatusFault.NEWER
    assert "schema version 2; this engine reads up to 1" in reading.message


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{}", b"[]", b"null", b"nonsense", b"\xff\xfe", b"[" * 5000, b'{"schema_version":true}',
        b'{"schema_version":"1"}', b'{"schema_version":1}', b'{"schema_version":0}', b"1" * 5000,
    ],
)  # fmt: skip
def test_signed_nonsense_is_a_fault_and_no_traceback(signers: Signers, sealed: Callable[..., bytes], payload: bytes) -> None:
    reading = judge_status("prod", sealed(payload), signers)
    assert (reading.status, reading.fault) == (None, StatusFault.UNREADABLE)


@pytest.mark.parametrize(
    "change",
    [
        {"beat": 0}, {"agent": "me"}, {"release": "sha256:short"}, {"state": "splendid"}, {"environment": "../x"},
        {"engine_restarts": -1}, {"is_serving": 2}, {"extra": 1}, {"reason": "x" * 4001}, {"time": 5},
    ],
)  # fmt: skip
def test_a_field_out_of_range_is_named(signers: Signers, sealed: Callable[..., bytes], change: dict[str, Any]) -> None:
    reading = judge_status("prod", sealed(canonical_json({**json.loads(STATUS.to_bytes()), **change})), signers)
    assert reading.fault is StatusFault.UNREADABLE
    assert next(iter(change)) in reading.message


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_bytes_raise(signers: Signers, data: bytes) -> None:
    assert judge_status("prod", data, signers).fault is StatusFault.UNTRUSTED


@settings(max_examples=80, deadline=None)
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_flipped_bit_changes_what_is_read(signers: Signers, sealed: Callable[..., bytes], position: int, bit: int) -> None:
    data = bytearray(sealed())
    data[position % len(data)] ^= 1 << bit
    reading = judge_status("prod", bytes(data), signers)
    assert reading.status in (None, STATUS)  # the key id is a hint, and may change
    assert reading.message.isprintable()


def test_what_reads_the_same_but_is_written_otherwise_is_a_fault(signers: Signers, sealed: Callable[..., bytes]) -> None:
    loose = json.loads(STATUS.to_bytes()) | {"is_serving": 1}
    for payload in (canonical_json(loose), STATUS.to_bytes() + b" ", b'{"beat":9,' + STATUS.to_bytes()[1:]):
        reading = judge_status("prod", sealed(payload), signers)
        assert reading.fault is StatusFault.UNREADABLE
        assert "canonical form" in reading.message


def test_messages_hold_no_control_characters(signers: Signers, sealed: Callable[..., bytes]) -> None:
    document = json.loads(sealed())
    document["signatures"][0]["keyid"] = "\x1b[31mred"
    reading = judge_status("prod", canonical_json(document), signers)
    assert "\x1b" not in reading.message


def test_what_is_no_blob_or_too_large_is_a_fault(repository: Repository, signers: Signers) -> None:
    refs = LocalRefs(repository)
    git(repository.root, "update-ref", status_ref("prod"), "HEAD")
    reading = read_status(refs, repository, "prod", signers)
    assert reading.fault is StatusFault.UNREADABLE
    assert "a commit, not a blob" in reading.message
    git(repository.root, "update-ref", status_ref("prod"), write_blob(repository, b" " * 70_000))
    assert "70000 bytes" in read_status(refs, repository, "prod", signers).message


def test_an_agent_is_dead_by_the_readers_clock_and_an_old_word_is_no_sign_of_life() -> None:
    clock = [0.0]
    watch = StatusWatch(180, lambda: clock[0])
    second = STATUS.model_copy(update={"beat": 2})
    assert not watch.is_silent(STATUS)
    clock[0] = 100
    assert not watch.is_silent(second)
    clock[0] = 279
    assert not watch.is_silent(second)
    clock[0] = 280
    assert watch.is_silent(second)
    assert watch.is_silent(STATUS)  # somebody put back what was said before
    restarted = STATUS.model_copy(update={"agent": "b" * 32, "time": "1999-01-01T00:00:00.000+00:00"})
    assert not watch.is_silent(restarted)  # its clock may be wrong: that is no matter


def test_a_status_reaches_another_clone_through_the_remote(
    tmp_path: Path, repository: Repository, signers: Signers, sealed: Callable[..., bytes]
) -> None:
    bare = tmp_path / "shared.git"
    git(tmp_path, "init", "--quiet", "--bare", str(bare))
    git(repository.root, "remote", "add", "origin", str(bare))
    other = Repository(new_repository(tmp_path / "controller"))
    git(other.root, "remote", "add", "origin", str(bare))
    agent, controller = RemoteRefs(repository, "origin"), RemoteRefs(other, "origin")
    for beat in (1, 2, 3):  # the agent never fetches: each publication finds the one before in its way, and replaces it
        publish(agent, repository, "prod", sealed(STATUS.model_copy(update={"beat": beat})))
    controller.refresh()
    reading = read_status(controller, other, "prod", signers)
    assert reading.status is not None
    assert reading.status.beat == 3
