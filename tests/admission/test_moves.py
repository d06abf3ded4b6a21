"""What came before a release is judged by the releases that held: a refused one, repeated, never makes the next one good.

Attacker: has the releaser's key and writes the ledger's ref; and is ana, an approver who writes commits. Nobody helps her but
cleo, who commits something harmless on top.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path

from tests.admission.test_attacks import bodies_of, entries_of, rewrite, signed_move
from tests.admission.test_supply_chain import change_policy, verdict_of
from tests.conftest import git, new_repository, run_forge
from tests.governed import Governed, commit_as, govern

from forge.admission.moves import _Line
from forge.contract.record import Approval, Release
from forge.repo.repository import Repository


def move(folder: Path, governed: Governed, **change: object) -> Release:
    """The first release once more, with the links that it had, moved now and signed by the releaser."""
    bodies = bodies_of(folder)
    first = next(body for body in bodies if isinstance(body, Release))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    release, sealed = signed_move(folder, governed.config, first.model_copy(update={"moved": now, **change}))
    links = {name: digest for name, digest in first.attestations.items() if name.startswith("chain-")}
    release = release.model_copy(update={"attestations": {**links, **release.attestations}})
    rewrite(folder, [*bodies, release], sealed)
    return release


def findings(folder: Path, governed: Governed) -> Sequence[str]:
    return [str(finding) for finding in verdict_of(folder, governed.config).findings]


def test_a_rollback_that_is_repeated_is_still_one(released: Path, governed: Governed) -> None:
    change_policy(released)
    commit_as(released, governed, "ben", "shorter answers")
    run_forge(released, governed.config, "apply")
    assert not findings(released, governed)
    for _ in range(3):
        move(released, governed)
        (said,) = findings(released, governed)
        assert "[order] release of local: it moves the pointer from commit" in said


def test_after_a_rollback_that_was_refused_the_pointer_goes_on_forward(released: Path, governed: Governed) -> None:
    """The mending: what comes after is held against what the environment served, not against the refused move."""
    change_policy(released)
    commit_as(released, governed, "ben", "shorter answers")
    run_forge(released, governed.config, "apply")
    move(released, governed)
    change_policy(released, "max_tokens: 16", "max_tokens: 8")
    commit_as(released, governed, "cleo", "even shorter answers")
    run_forge(released, governed.config, "apply")
    assert not findings(released, governed)


def test_descent_is_told_from_the_commits(tmp_path: Path) -> None:
    folder = new_repository(tmp_path / "repository")
    names = []
    for message in ("one", "two", "three"):
        git(folder, "commit", "--quiet", "--allow-empty", "-m", message)
        names.append(git(folder, "rev-parse", "HEAD"))
    git(folder, "checkout", "--quiet", "-b", "side", names[0])
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "aside")
    aside, absent = git(folder, "rev-parse", "HEAD"), "0" * 40
    with Repository(folder) as repository:
        line = _Line(repository, [*names, aside, absent])
    pairs = {
        (older, newer) for older in (*names, aside, absent) for newer in (*names, aside, absent) if line.descends(older, newer)
    }
    one, two, three = names
    assert pairs == {
        (one, one),
        (one, two),
        (one, three),
        (one, aside),
        (two, two),
        (two, three),
        (three, three),
        (aside, aside),
    }


def with_a_change_of_anas(folder: Path, governed: Governed) -> tuple[str, str]:
    """Ana changes the model, cleo commits on top; both commits."""
    path = folder / "models" / "model.yaml"
    path.write_text(path.read_text().replace("seed: 5", "seed: 6"))
    hers = commit_as(folder, governed, "ana", "another model")
    on_top = commit_as(folder, governed, "cleo", "on top of it")
    run_forge(folder, governed.config, "apply", code=1)
    return hers, on_top


def test_an_author_does_not_approve_after_a_release_of_hers_that_was_refused(released: Path, governed: Governed) -> None:
    """The bogus release says that the environment serves her commit: as it stands, and naming every approval there is."""
    hers, _ = with_a_change_of_anas(released, governed)
    run_forge(released, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ana"))
    assert "who wrote a change may not approve it" in run_forge(released, governed.config, "apply", code=1).stderr
    move(released, governed, commit=hers)
    assert findings(released, governed)
    assert "who wrote a change may not approve it" in run_forge(released, governed.config, "apply", code=1).stderr


def test_an_old_approval_of_anothers_does_not_carry_a_release_that_the_commit_does_not_ask_for(
    released: Path, governed: Governed
) -> None:
    """Ben approved the old model, too. A release of it, said to be of ana's commit, makes her change no older."""
    run_forge(released, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ben"))
    bens = next(str(entry.digest) for entry in reversed(entries_of(released)) if isinstance(entry.body, Approval))
    hers, _ = with_a_change_of_anas(released, governed)
    move(released, governed, commit=hers, approvals=(bens,))
    said = findings(released, governed)
    assert any("does not ask for this release" in line for line in said), said
    run_forge(released, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ana"))
    refused = run_forge(released, governed.config, "apply", code=None)
    assert refused.returncode in (1, 4)
    assert "who wrote a change may not approve it" in refused.stderr


def test_a_supply_chain_that_the_root_signs_in_between_makes_no_change_older(released: Path, governed: Governed) -> None:
    """Somebody else commits a routine change of the supply chain on top, and the root signs it."""
    change_policy(released)
    commit_as(released, governed, "ana", "shorter answers")
    assert "who wrote a change may not approve it" in run_forge(released, governed.config, "apply", code=1).stderr
    chain = governed.supply_chain()
    chain["roles"]["agent"]["keys"][0]["valid_until"] = "2098-01-01T00:00:00Z"
    govern(released, chain, governed.people())
    commit_as(released, governed, "cleo", "when the agent's key ends")
    run_forge(released, governed.config, "keys", "delegate")
    run_forge(released, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ana"))
    assert "who wrote a change may not approve it" in run_forge(released, governed.config, "apply", code=1).stderr
    run_forge(released, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ben"))
    run_forge(released, governed.config, "apply")
    assert not findings(released, governed)
