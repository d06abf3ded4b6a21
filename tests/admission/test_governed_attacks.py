"""Attacks on a release under a supply chain that the root signed, each refused by its own words.

Attacker: writes the ledger's ref, and the commits; holds no key, or the one that a test names.
"""

import datetime
import shutil
import time
from pathlib import Path

import pytest
from tests.admission.test_attacks import REF, as_it_stands, bodies_of, entries_of, record_of, rewrite, signed_move
from tests.admission.test_supply_chain import verdict_of
from tests.conftest import new_repository, run_forge
from tests.governed import Governed, commit_as, govern, make_governed, write_approved

from forge.contract.kinds import Role
from forge.contract.record import Approval, Record, Release
from forge.ledger.ledger import Draft, Ledger
from forge.repo.repository import Repository

NOTHING = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture(scope="module")
def released_once(tmp_path_factory: pytest.TempPathFactory, governed: Governed) -> Path:
    """Written and signed by cleo, delegated by the root, approved by ana, released."""
    folder = new_repository(tmp_path_factory.mktemp("released") / "repository")
    write_approved(folder, governed)
    run_forge(folder, governed.config, "apply")
    return folder


@pytest.fixture
def released(released_once: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(released_once, folder, symlinks=True)
    return folder


def now(seconds: float = 0) -> str:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds")


def release_of(folder: Path) -> Release:
    return [body for body in bodies_of(folder) if isinstance(body, Release)][-1]


def move_of(folder: Path, config: Path, **change: object) -> tuple[Release, list[bytes]]:
    """A later move by the releaser's key, with the links of the chain as they were."""
    before = release_of(folder)
    release, sealed = signed_move(folder, config, before.model_copy(update={"moved": now(), **change}))
    chain = {name: digest for name, digest in before.attestations.items() if name.startswith("chain-")}
    return release.model_copy(update={"attestations": {**chain, **release.attestations}}), sealed


def append(folder: Path, *bodies: Release | Approval | Record, attestations: tuple[bytes, ...] = ()) -> None:
    with Repository(folder) as repository:
        ledger = Ledger(repository, REF)
        for body in bodies:
            ledger.append([Draft(body, attestations)])


def unsigned_approval(given: str, *digests: str) -> Approval:
    """One that lists what somebody else signed, or nothing."""
    names = {f"a{number}": digest for number, digest in enumerate(digests)}
    return Approval(subject="plan", digest=NOTHING, person="x", commit="0" * 40, given=given, attestations=names)


def revoke(folder: Path, governed: Governed, role: str) -> None:
    """The root revokes a role's key as of this moment, to the second; another one takes its place."""
    time.sleep(1.1)
    chain = governed.supply_chain()
    (key,) = chain["roles"][role]["keys"]
    chain["roles"][role]["keys"].append({**key, "name": "another", "public": governed.public("agent")})
    key["revoked"] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    govern(folder, chain, governed.people())
    commit_as(folder, governed, "cleo", f"the key of the {role} was stolen")
    run_forge(folder, governed.config, "keys", "delegate")


def findings_of(folder: Path, governed: Governed) -> list[str]:
    return [str(finding) for finding in verdict_of(folder, governed.config).findings]


def test_a_move_signed_before_a_revocation_and_appended_after_it_is_refused(released: Path, governed: Governed) -> None:
    """One key (releaser): an entry that nobody signed listed the move's attestations before the revocation."""
    late, sealed = move_of(released, governed.config, moved=now())
    append(released, unsigned_approval(now(), *late.attestations.values()))
    revoke(released, governed, "releaser")
    append(released, late, attestations=tuple(sealed))
    said = findings_of(released, governed)
    assert any("[signature] release of local: the key releaser releaser-1 was revoked at" in line for line in said), said


def test_a_record_signed_before_a_revocation_and_appended_after_it_is_refused(released: Path, governed: Governed) -> None:
    """One key (evaluator): likewise with an evaluation that supersedes the one that counted."""
    honest = record_of(released, "evaluate/small.small")
    known = next(entry.digest for entry in entries_of(released) if entry.body == honest)
    again = honest.model_copy(update={"supersedes": known, "finished": now()})
    late, sealed = as_it_stands(released, governed.config, again, Role.EVALUATOR)
    append(released, unsigned_approval(now(), *late.attestations.values()))
    revoke(released, governed, "evaluator")
    rewrite(released, [*bodies_of(released), late], sealed)
    said = findings_of(released, governed)
    assert any("evaluate/small.small link: the key evaluator evaluator-1 was revoked at" in line for line in said), said
