"""Attacks on a release under a supply chain that the root signed, each refused by its own words.

Attacker: writes the ledger's ref, and the commits; holds no key, or the one that a test names.
"""

import datetime
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.admission.test_attacks import REF, as_it_stands, bodies_of, entries_of, record_of, rewrite, signed_move
from tests.admission.test_supply_chain import verdict_of
from tests.conftest import git, new_repository, run_forge
from tests.governed import Governed, commit_as, govern, make_governed, write_approved

from forge.contract.kinds import Role
from forge.contract.record import Approval, Record, Release
from forge.errors import LedgerError
from forge.ledger.head import head_here
from forge.ledger.ledger import Draft, Ledger
from forge.repo.repository import Repository
from forge.serve.watch import Lookout, Source, Withdrawn

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


def look(folder: Path, governed: Governed, tmp_path: Path, ref: str = REF) -> Withdrawn | object:
    """What the agent that serves the release finds."""
    served = SimpleNamespace(release_digest=release_of(folder).release)
    source = Source(folder, "local", ref, None, ".forge/store", governed.config, tmp_path / "weights")
    lookout = Lookout(source, {}, lambda: None, served=lambda: served)
    try:
        return lookout.look()
    finally:
        lookout.close()


def test_a_ledger_under_another_name_has_to_keep_what_was_seen(released: Path, governed: Governed, tmp_path: Path) -> None:
    """No key: a ref at an older head, and a commit by nobody whose forge.toml names it."""
    old = git(released, "rev-parse", REF)
    append(released, unsigned_approval(now()))
    run_forge(released, governed.config, "verify", "release/local")
    new, other = git(released, "rev-parse", REF), f"{REF}-b"
    git(released, "update-ref", other, old)
    settings = released / "forge.toml"
    settings.write_text(settings.read_text() + f'\n[ledger]\nref = "{other}"\n')
    commit_as(released, governed, None, "chore: settings")
    told = f"another ledger is named: {other} is {old}, which does not descend from {new}, the head of {REF}"
    report = ["report", "release/local", "--out", str(tmp_path / "report")]
    for command in (["verify", "release/local"], report, ["impact", "DataRecipe/small"], ["apply"]):
        assert told in run_forge(released, governed.config, *command, code=LedgerError.exit_code).stderr
    with pytest.raises(LedgerError, match="another ledger is named"):
        look(released, governed, tmp_path, other)
    git(released, "update-ref", "-d", other)
    assert f"{other} is absent" in run_forge(released, governed.config, "verify", "release/local", code=None).stderr
    git(released, "update-ref", other, new)
    run_forge(released, governed.config, "verify", "release/local")
    append(released, unsigned_approval(now(1)))  # to the earlier name: the one that was seen last binds
    run_forge(released, governed.config, "verify", "release/local")


def test_what_an_engine_before_remembered_binds_another_name_too(released: Path, governed: Governed) -> None:
    """Its memory is by ref alone. With a root of which this clone has seen nothing, another ledger is one's own affair."""
    head, old = (git(released, "rev-parse", name) for name in (REF, f"{REF}~1"))
    git(released, "update-ref", f"{REF}-b", old)
    with Repository(released) as repository:
        for file in repository.state_folder.glob("ledger-of-*"):
            file.unlink()
        with pytest.raises(LedgerError, match=f"does not descend from {head}"):
            head_here(repository, f"{REF}-b", NOTHING)
        assert head_here(repository, REF, NOTHING) == head
        with pytest.raises(LedgerError, match=f"does not descend from {head}"):
            head_here(repository, f"{REF}-b", NOTHING)
        assert head_here(repository, f"{REF}-b", NOTHING.replace("0", "1")) == old
