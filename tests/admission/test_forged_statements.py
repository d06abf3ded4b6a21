"""Attacks on what statements say and when, and on which of them a body lists.

Attacker: writes the Git repository and the ledger ref, and holds no key (or, where a test says so, one role's).
"""

from pathlib import Path

import pytest
from tests.admission.test_attacks import bodies_of, pulled, record_of, refused, rewrite
from tests.conftest import run_forge

from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.statements import release_statement
from forge.canonical import digest_of_bytes
from forge.contract.kinds import Role, StepKind
from forge.contract.record import Record, Release
from forge.errors import ForgeError


def test_what_a_step_signed_as_one_statement_does_not_pass_as_another(copy_of_applied: Path, config_home: Path) -> None:
    """No key: link and provenance, both signed by the trainer, each listed under the other's name."""
    trained = record_of(copy_of_applied, "train/small")
    names = {**trained.attestations, "link": trained.attestations["provenance"], "provenance": trained.attestations["link"]}
    swapped = trained.model_copy(update={"attestations": names})
    rewrite(copy_of_applied, [swapped if body == trained else body for body in bodies_of(copy_of_applied)], fresh=True)
    said = refused(copy_of_applied, config_home)
    assert "[statement] train/small provenance: what was signed is not what the record and its artifacts say" in said
    assert "[statement] train/small link: what was signed is not what the record and its artifacts say" in said


@pytest.mark.parametrize("payload", ["another type", "a name twice"])
def test_a_statement_that_two_readers_read_differently_is_refused(
    copy_of_applied: Path, config_home: Path, payload: str
) -> None:
    """The releaser's key: the right statement with another predicate type, or with a second subject under a name it has."""
    release = next(body for body in bodies_of(copy_of_applied) if isinstance(body, Release))
    statement = release_statement(release)
    if payload == "another type":
        statement = statement.replace(b"urn:forge:release:v1", b"urn:forge:retirement:v1")
    else:  # a reader that keeps the last of two equal names sees other weights than one that keeps the first
        statement = statement.replace(b'"subject":', b'"subject":[{"name":"release/local","digest":{}}],"subject":')
    sealed = seal(statement, signer_for(Role.RELEASER, config_home))
    names = {**release.attestations, "release": str(digest_of_bytes(sealed))}
    changed = release.model_copy(update={"attestations": names})
    rewrite(
        copy_of_applied, [changed if body == release else body for body in bodies_of(copy_of_applied)], [sealed], fresh=True
    )
    assert "[statement] release of local: what was signed is not what the ledger says" in refused(copy_of_applied, config_home)


@pytest.mark.parametrize("moment", ["x", "", "99999-01-01T00:00:00+00:00", "2026-11-27T00:00:00"])
@pytest.mark.parametrize("subject", ["release/local", "model/small"])
def test_a_time_that_is_none_is_refused_without_a_traceback(
    copy_of_applied: Path, config_home: Path, moment: str, subject: str
) -> None:
    """No key: when something was signed is looked at before its signature is."""
    bodies = [
        body.model_copy(update={"moved": moment} if isinstance(body, Release) else {"finished": moment})
        if isinstance(body, Release) or (isinstance(body, Record) and body.step is StepKind.GATE)
        else body
        for body in bodies_of(copy_of_applied)
    ]
    rewrite(copy_of_applied, bodies, fresh=True)
    refused(copy_of_applied, config_home, subject)
    with pytest.raises(ForgeError):
        pulled(copy_of_applied, config_home)


def test_a_link_of_no_kind_of_step_does_not_stop_the_report(copy_of_applied: Path, config_home: Path, tmp_path: Path) -> None:
    """No key: which attestations a release lists is not signed."""
    bodies = [
        body.model_copy(update={"attestations": {**body.attestations, "chain-x": body.attestations["release"]}})
        if isinstance(body, Release)
        else body
        for body in bodies_of(copy_of_applied)
    ]
    rewrite(copy_of_applied, bodies, fresh=True)
    run_forge(copy_of_applied, config_home, "report", "release/local", "--out", str(tmp_path / "report"))
    assert not list((tmp_path / "report" / "bundle" / "attestations").glob("*chain-x*"))
