"""Whose approval counts: an approver's, made by their own key, whose other duties do not exclude it."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import git, loose_object, new_repository
from tests.governed import Governed, commit_as, make_governed

from forge.admission.approvals import Authors, authors_of, commits_between, judge_approvals
from forge.admission.history import read_history
from forge.attest.approval import approval_statement, pack
from forge.attest.authority import Authority
from forge.attest.delegation import delegation_payloads
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.ssh import APPROVAL_NAMESPACE, sign_with_ssh
from forge.attest.trust import read_trust_root
from forge.canonical import digest_of_bytes
from forge.contract.charter import Charter
from forge.contract.kinds import Role
from forge.contract.record import Approval, Delegation
from forge.errors import TrustError
from forge.ledger.entry import Entry
from forge.plan.approvals import Given
from forge.repo.repository import Repository
from forge.spec.supply_chain import PeopleSpec, SupplyChainSpec

DIGEST = f"sha256:{'1' * 64}"


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


def given(governed: Governed, person: str, key: str | None = None, authors: Authors | None = None, **changes: Any) -> Given:
    """An approval by a person, signed with their own key or another's, as it is judged under a supply chain."""
    charter = Charter(
        supply_chain=SupplyChainSpec.model_validate(governed.supply_chain(**changes)),
        people=PeopleSpec.model_validate(governed.people()),
    )
    root = read_trust_root(governed.config)
    delegation = Delegation(
        version=1, charter=charter.to_document(), digest=charter.digest, commit="c" * 40, signed="2026-11-23T00:00:00.000+00:00"
    )
    sealed = {
        name: seal(payload, signer_for(Role.ROOT, governed.config))
        for name, payload in delegation_payloads(delegation, root).items()
    }
    approval = Approval(
        subject="release/local",
        digest=DIGEST,
        verdict=DIGEST,
        person=person,
        commit="c" * 40,
        given="2026-11-23T00:00:01.000+00:00",
    )
    statement = approval_statement(approval)
    packed = pack(statement, sign_with_ssh(statement, governed.ssh / (key or person), APPROVAL_NAMESPACE))
    held = {str(digest_of_bytes(data)): data for data in (*sealed.values(), packed)}
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    first = Entry(sequence=1, previous=None, body=delegation.model_copy(update={"attestations": names}))
    signed = approval.model_copy(update={"attestations": {"approval": str(digest_of_bytes(packed))}})
    second = Entry(sequence=2, previous=first.digest, body=signed)
    history = read_history([first, second], held, root)
    assert not history.findings
    (found,) = judge_approvals([second], held, history, 3, authors)
    return found


def test_an_approver_counts(governed: Governed) -> None:
    assert given(governed, "ana", authors=Authors(frozenset({"cleo"}), ())).refusal is None


def test_an_author_does_not_approve_their_own_change(governed: Governed) -> None:
    refusal = given(governed, "ana", authors=Authors(frozenset({"ana", "cleo"}), ())).refusal
    assert refusal == "who wrote a change may not approve it"


def test_nobody_approves_what_nobody_known_wrote(governed: Governed) -> None:
    refusal = given(governed, "ana", authors=Authors(frozenset(), ("d" * 40,))).refusal
    assert refusal == f"commit {'d' * 12} is signed by nobody that People lists, so its author is unknown"


def test_who_trained_does_not_approve(governed: Governed) -> None:
    roles = governed.supply_chain()["roles"]
    roles["trainer"]["keys"][0]["holder"] = "ana"
    apart = {"roles": roles, "separation_of_duties": [["trainer", "approver"]]}
    assert given(governed, "ana", **apart).refusal == "who holds a key of the trainer may not approve"
    assert given(governed, "ben", **apart).refusal is None
    assert given(governed, "ana", roles=roles, separation_of_duties=[["evaluator", "approver"]]).refusal is None


def test_an_approval_with_another_persons_key_is_told(governed: Governed) -> None:
    assert given(governed, "ana", key="ben").refusal == "it was signed by ben"


def test_who_is_no_approver_does_not_count(governed: Governed) -> None:
    assert given(governed, "cleo").refusal == "the supply chain does not list them as an approver"


def test_a_strangers_key_is_nobodys(governed: Governed, tmp_path: Path) -> None:
    stranger = make_governed(tmp_path)
    refusal = given(Governed(governed.config, governed.ssh), "ana", key=str(stranger.ssh / "ana")).refusal
    assert refusal == "the key that signed it is not one that People lists as valid at that time"


def history_of_three(folder: Path) -> tuple[str, str, str]:
    """What was delegated, what the author wrote, and an empty commit of somebody else on top."""
    new_repository(folder)
    names = []
    for message in ("delegated", "written", "on top"):
        git(folder, "commit", "--quiet", "--allow-empty", "-m", message)
        names.append(git(folder, "rev-parse", "HEAD"))
    delegated, written, on_top = names
    with Repository(folder) as repository:
        assert commits_between(repository, on_top, [delegated]) == sorted([written, on_top])
    return delegated, written, on_top


def refused_history(folder: Path, commit: str, before: str) -> str:
    with Repository(folder) as repository, pytest.raises(TrustError) as raised:
        commits_between(repository, commit, [before])
    return str(raised.value)


def test_an_author_is_not_hidden_by_a_history_that_is_cut_off(tmp_path: Path) -> None:
    """No key: git takes a commit that .git/shallow names for one without parents."""
    delegated, written, on_top = history_of_three(tmp_path / "repository")
    (tmp_path / "repository" / ".git" / "shallow").write_text(f"{on_top}\n")
    assert f"commit {written[:12]}, a parent of {on_top[:12]}, is neither" in refused_history(
        tmp_path / "repository", on_top, delegated
    )


def test_an_author_is_not_hidden_by_a_commit_that_was_exchanged_on_disk(tmp_path: Path) -> None:
    """No key: under the delegated commit's id lies another one, of which the author's commit is a parent."""
    folder = tmp_path / "repository"
    delegated, written, on_top = history_of_three(folder)
    text = git(folder, "cat-file", "commit", delegated)
    head, separator, rest = text.partition("\nauthor ")
    other = subprocess.run(
        ["git", "hash-object", "-t", "commit", "-w", "--stdin"],
        cwd=folder,
        input=f"{head}\nparent {written}{separator}{rest}\n",
        text=True,
        capture_output=True,
        check=True,
    ).stdout.strip()
    place = loose_object(folder, delegated)
    place.chmod(0o644)
    place.write_bytes(loose_object(folder, other).read_bytes())
    assert git(folder, "rev-list", on_top, f"^{delegated}") == on_top, "git believes it"
    assert delegated[:12] in refused_history(folder, on_top, delegated)


def test_an_author_is_not_hidden_by_an_altered_commit_graph(tmp_path: Path) -> None:
    """No key: the cache says that the commit on top follows the delegated one."""
    folder = tmp_path / "repository"
    delegated, written, on_top = history_of_three(folder)
    git(folder, "commit-graph", "write", "--reachable")
    graph = folder / ".git" / "objects" / "info" / "commit-graph"
    data = bytearray(graph.read_bytes())
    chunks = {bytes(data[at : at + 4]): int.from_bytes(data[at + 4 : at + 12], "big") for at in range(8, 8 + 12 * data[6], 12)}
    places = {bytes(data[at : at + 20]).hex(): number for number, at in enumerate(range(chunks[b"OIDL"], chunks[b"CDAT"], 20))}
    parent = chunks[b"CDAT"] + 36 * places[on_top] + 20
    data[parent : parent + 4] = places[delegated].to_bytes(4, "big")
    graph.chmod(0o644)
    graph.write_bytes(data)
    assert git(folder, "rev-list", on_top, f"^{delegated}") == on_top, "git believes it"
    with Repository(folder) as repository:
        assert commits_between(repository, on_top, [delegated]) == sorted([written, on_top])


def test_only_commits_from_before_authors_were_kept_apart_may_be_unsigned(governed: Governed, tmp_path: Path) -> None:
    """Who signed one of them is an author as ever."""
    folder = new_repository(tmp_path / "repository")
    names = [commit_as(folder, governed, person) for person in (None, "ana", "cleo", None, "ben")]
    charter = Charter(
        supply_chain=SupplyChainSpec.model_validate(governed.supply_chain()),
        people=PeopleSpec.model_validate(governed.people()),
    )
    authority = Authority(read_trust_root(governed.config), charter, charter)
    with Repository(folder) as repository:
        found = authors_of(repository, names[-1], [], authority, names[2])
        assert found.people == {"ana", "ben", "cleo"}
        assert found.unknown == (names[3],)
        assert sorted(found.commits) == sorted(names[1:])
        assert names[0] in authors_of(repository, names[-1], [], authority).unknown
