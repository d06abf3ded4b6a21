"""A role of steps with a threshold: a release waits until as many functionaries have made the same of the same.

Attacker: writes the ledger's ref, and holds one key of a role, or of another role.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.admission.test_attacks import bodies_of, entries_of, pulled, record_of, rewrite, signed, store_of
from tests.admission.test_supply_chain import verdict_of
from tests.conftest import new_repository, run_forge, write_small
from tests.governed import Governed, commit_as, govern, make_governed
from tests.tsa import make_authority, needs_openssl, serving

from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.reproduction import reproduction_payloads
from forge.canonical import canonical_json, digest_of_bytes
from forge.contract.kinds import Role
from forge.contract.record import Record, Release, Reproduction
from forge.errors import TrustError
from forge.plan.graph import build_graph
from forge.plan.step import producers_of
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree

SECOND = "data-steward-2"
Change = Callable[[dict[str, Any]], None]


@dataclass
class Team:
    governed: Governed
    others: Path
    """Configurations of other data stewards, by name; each has one key and no other."""
    supply_chain: dict[str, Any]

    @property
    def second(self) -> Path:
        return self.others / "second"


@pytest.fixture(scope="session")
def team(tmp_path_factory: pytest.TempPathFactory) -> Team:
    """Six keys of the role: of cleo (two), of nobody in particular (two), one that expired and one that was revoked."""
    folder = tmp_path_factory.mktemp("team")
    governed = make_governed(folder / "first")
    chain = governed.supply_chain(release={})
    steward = chain["roles"]["data-steward"]
    keys = [{**steward["keys"][0], "holder": "cleo"}]
    for name, more in (
        ("second", {}),
        ("third", {}),
        ("cleo", {"holder": "cleo"}),
        ("expired", {"valid_until": "2026-01-01T00:00:00Z"}),
        ("revoked", {"revoked": "2026-01-01T00:00:00Z"}),
    ):
        keys.append({**governed.another("data-steward", SECOND if name == "second" else name, folder / name), **more})
    governed.another("data-steward", "unlisted", folder / "unlisted")
    chain["roles"]["data-steward"] = {**steward, "threshold": 2, "keys": keys}
    return Team(governed, folder, chain)


@pytest.fixture(scope="session")
def waiting_once(tmp_path_factory: pytest.TempPathFactory, team: Team) -> Path:
    """Everything is recorded, and the release waits for somebody to curate again."""
    folder = new_repository(tmp_path_factory.mktemp("waiting") / "repository")
    write_small(folder)
    govern(folder, team.supply_chain, team.governed.people())
    commit_as(folder, team.governed, "cleo", "the small example, curated twice")
    run_forge(folder, team.governed.config, "keys", "delegate")
    blocked = run_forge(folder, team.governed.config, "apply", code=1)
    assert "release/small-local is blocked: needs reproduction: curate/small needs 2 functionaries, has 1" in blocked.stderr
    assert "`forge reproduce curate/small` by who holds another key of the data-steward adds one" in blocked.stderr
    return folder


@pytest.fixture
def waiting(waiting_once: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(waiting_once, folder, symlinks=True)
    return folder


@pytest.fixture(scope="session")
def released_once(tmp_path_factory: pytest.TempPathFactory, waiting_once: Path, team: Team) -> Path:
    folder = tmp_path_factory.mktemp("released") / "copy"
    shutil.copytree(waiting_once, folder, symlinks=True)
    done = run_forge(folder, team.second, "reproduce", "curate/small")
    assert "made the same: documents sha256:" in done.stderr
    assert f"signed by data-steward {SECOND}; signed with it: chain-curate" in done.stderr
    run_forge(folder, team.governed.config, "apply")
    return folder


@pytest.fixture
def released(released_once: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(released_once, folder, symlinks=True)
    return folder


def test_a_release_waits_until_somebody_else_made_the_same(released: Path, team: Team) -> None:
    verdict = verdict_of(released, team.governed.config)
    assert verdict.holds, verdict.findings
    said = "\n".join(check.message for check in verdict.checks if check.rule == "threshold")
    assert f"curate/small was carried out by 2: data-steward data-steward-1 (recorded it), data-steward {SECOND} (entry" in said
    assert "curate/small by 2 of 2, the link of all curate steps by 2 of 2" in said
    (body,) = (body for body in bodies_of(released) if isinstance(body, Reproduction))
    record = next(entry for entry in entries_of(released) if entry.digest == body.record)
    assert body.products == record.body.products
    run_forge(released, team.governed.config, "plan", "--exit-code")


def reproduction_of(folder: Path) -> Reproduction:
    (body,) = (body for body in bodies_of(folder) if isinstance(body, Reproduction))
    return body


def signed_by(
    folder: Path, config: Path, body: Reproduction, role: Role, changes: Mapping[str, Change] = {}
) -> dict[str, bytes]:
    """What somebody with a key can sign for a reproduction of the curation: as it has to be, or changed."""
    record = record_of(folder, "curate/small")
    with Repository(folder) as repository:
        step = build_graph(read_desired(CommitTree(repository, record.commit)))["curate/small"]
    manifests = {digest: store_of(folder).manifest(digest) for digest in (*record.inputs.values(), *body.products.values())}
    signer = signer_for(role, config)
    found = {}
    for name, payload in reproduction_payloads(body, record, manifests, producers_of(step)).items():
        document = json.loads(payload)
        changes.get(name, lambda _document: None)(document)
        found[name] = seal(canonical_json(document), signer)
    return found


def put_in(folder: Path, body: Reproduction, attestations: Mapping[str, bytes]) -> None:
    """The ledger with another reproduction in place of the one that is there; a link of the kind is listed as it was."""
    names = {name: str(digest_of_bytes(data)) for name, data in attestations.items()}
    old = reproduction_of(folder)
    links = {name: digest for name, digest in old.attestations.items() if name.startswith("chain-")}
    new = body.model_copy(update={"attestations": {**names, **links}})
    rewrite(folder, [new if each == old else each for each in bodies_of(folder)], [*attestations.values()], fresh=True)


def refusal(folder: Path, team: Team) -> str:
    verdict = verdict_of(folder, team.governed.config)
    assert not verdict.holds
    assert {finding.rule.value for finding in verdict.findings} == {"threshold"}, verdict.findings
    (finding,) = verdict.findings
    assert "curate/small needs 2 functionaries, has 1 (data-steward data-steward-1)" in finding.message
    assert "`forge reproduce curate/small` by who holds another key of the data-steward adds one" in finding.message
    return finding.message


def test_the_same_signed_again_by_the_second_functionary_holds(released: Path, team: Team) -> None:
    """What the attacks below are told apart by."""
    body = reproduction_of(released).model_copy(update={"attempt": 7})
    put_in(released, body, signed_by(released, team.second, body, Role.DATA_STEWARD))
    verdict = verdict_of(released, team.governed.config)
    assert verdict.holds, verdict.findings


@pytest.mark.parametrize(
    ("who", "role", "told"),
    [
        ("first/config", Role.DATA_STEWARD, "the same functionary has carried it out before"),
        ("cleo", Role.DATA_STEWARD, "the same functionary has carried it out before"),
        ("first/config", Role.EVALUATOR, "no valid signature of the role data-steward"),
        ("unlisted", Role.DATA_STEWARD, "no valid signature of the role data-steward"),
        ("expired", Role.DATA_STEWARD, "expired at 2026-01-01T00:00:00Z"),
        ("revoked", Role.DATA_STEWARD, "was revoked at 2026-01-01T00:00:00Z"),
    ],
)
def test_a_reproduction_by_a_key_that_adds_nobody_does_not_count(
    released: Path, team: Team, who: str, role: Role, told: str
) -> None:
    body = reproduction_of(released)
    put_in(released, body, signed_by(released, team.others / who, body, role))
    assert told in refusal(released, team)


def _other_file(part: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        document[part][next(iter(document[part]))] = {"sha256": "0" * 64}

    return change


@pytest.mark.parametrize(
    "changes",
    [
        {"link": _other_file("materials")},
        {"link": _other_file("products")},
        {"link": lambda document: document.update(name="curate/other")},
        {"provenance": lambda document: document["predicate"]["runDetails"]["metadata"].update(startedOn="2020-01-01")},
    ],
    ids=["other materials", "other products", "another step", "another time"],
)
def test_a_reproduction_whose_statements_say_something_else_does_not_count(
    released: Path, team: Team, changes: dict[str, Change]
) -> None:
    body = reproduction_of(released)
    put_in(released, body, signed_by(released, team.second, body, Role.DATA_STEWARD, changes))
    assert "is not what follows from the record and its artifacts" in refusal(released, team)


def test_a_reproduction_of_other_outputs_does_not_count(released: Path, team: Team) -> None:
    record = record_of(released, "tokenizer/small")
    body = reproduction_of(released)
    other = body.model_copy(update={"products": {**body.products, "documents": record.products["tokenizer"]}})
    put_in(released, other, signed_by(released, team.second, other, Role.DATA_STEWARD))
    assert "it made other products than the record has" in refusal(released, team)


def test_a_reproduction_that_is_borrowed_does_not_count(released: Path, team: Team) -> None:
    """From another step key, listed as one of this; and of this one, listed under another."""
    body = reproduction_of(released)
    sealed = signed_by(released, team.second, body, Role.DATA_STEWARD)
    elsewhere = next(
        entry.digest for entry in entries_of(released) if isinstance(entry.body, Record) and entry.body.key != body.key
    )
    put_in(released, body.model_copy(update={"record": elsewhere}), sealed)
    assert "it names no record of this step key that the ledger held before it" in refusal(released, team)
    put_in(released, body.model_copy(update={"key": record_of(released, "train/small").key}), sealed)
    refusal(released, team)


def test_what_the_record_signed_is_no_reproduction_and_two_keys_do_not_share_one(released: Path, team: Team) -> None:
    record, body = record_of(released, "curate/small"), reproduction_of(released)
    own = {name: digest for name, digest in record.attestations.items() if name in ("link", "provenance")}
    as_if = body.model_copy(update={"attestations": own})
    bodies = bodies_of(released)
    rewrite(released, [as_if if each == body else each for each in bodies], fresh=True)
    assert "is not what follows from the record" in refusal(released, team)
    link = signed_by(released, team.second, body, Role.DATA_STEWARD)["link"]
    provenance = signed_by(released, team.governed.config, body, Role.DATA_STEWARD)["provenance"]
    names = {"link": str(digest_of_bytes(link)), "provenance": str(digest_of_bytes(provenance))}
    shared = body.model_copy(update={"attestations": names})
    rewrite(released, [shared if each == body else each for each in bodies], [link, provenance], fresh=True)
    assert "two keys signed its link and its provenance" in refusal(released, team)


def test_a_reproduction_that_comes_after_the_release_does_not_mend_it(released: Path, team: Team) -> None:
    body = reproduction_of(released)
    rewrite(released, [*(each for each in bodies_of(released) if each != body), body], fresh=True)
    refusal(released, team)


def test_a_link_of_the_kind_that_is_another_does_not_count(released: Path, team: Team) -> None:
    """The step was carried out twice; what is lacking is what in-toto compares."""
    body = reproduction_of(released)
    without = {name: digest for name, digest in body.attestations.items() if not name.startswith("chain-")}
    link = signed_by(released, team.second, body, Role.DATA_STEWARD)["link"]
    wrong = {**without, "chain-curate": str(digest_of_bytes(link))}
    bodies = bodies_of(released)
    for names in (without, wrong):
        other = body.model_copy(update={"attestations": names})
        rewrite(released, [other if each == body else each for each in bodies], [link], fresh=True)
        (finding,) = verdict_of(released, team.governed.config).findings
        assert "the link of all curate steps needs 2 functionaries, has 1 (the release's own)" in finding.message


def test_a_commit_cannot_lower_the_threshold(waiting: Path, team: Team) -> None:
    roles = team.supply_chain["roles"]
    lower = {**team.supply_chain, "roles": {**roles, "data-steward": {**roles["data-steward"], "threshold": 1}}}
    govern(waiting, lower, team.governed.people())
    commit_as(waiting, team.governed, "cleo", "once is enough")
    refused = run_forge(waiting, team.governed.config, "apply", code=4)
    assert "is not the one that the root signed" in refused.stderr
    assert not any(isinstance(body, Release) for body in bodies_of(waiting))
    run_forge(waiting, team.governed.config, "keys", "delegate")
    run_forge(waiting, team.governed.config, "apply")


def test_a_higher_threshold_says_nothing_about_what_serves_already(released: Path, team: Team) -> None:
    roles = team.supply_chain["roles"]
    steward = {**roles["data-steward"], "threshold": 3}
    govern(released, {**team.supply_chain, "roles": {**roles, "data-steward": steward}}, team.governed.people())
    commit_as(released, team.governed, "cleo", "three have to")
    run_forge(released, team.governed.config, "keys", "delegate")
    assert verdict_of(released, team.governed.config).holds
    run_forge(released, team.others / "third", "reproduce", "curate/small")
    assert len([body for body in bodies_of(released) if isinstance(body, Reproduction)]) == 2


@pytest.mark.parametrize(
    ("who", "told"),
    [
        ("first/config", "was recorded by data-steward data-steward-1, and the key here"),
        ("cleo", "is the same functionary's"),
        ("unlisted", "neither the trust root nor its supply chain lists it for this role"),
        ("expired", "data-steward expired expired at 2026-01-01T00:00:00Z"),
        ("revoked", "data-steward revoked was revoked at 2026-01-01T00:00:00Z"),
    ],
)
def test_a_key_that_would_not_count_carries_nothing_out(waiting: Path, team: Team, who: str, told: str) -> None:
    refused = run_forge(waiting, team.others / who, "reproduce", "curate/small", code=4)
    assert told in refused.stderr
    assert not list((waiting / ".forge" / "work").glob("reproduce-*"))


def test_a_reproduction_counts_once(released: Path, team: Team) -> None:
    refused = run_forge(released, team.second, "reproduce", "curate/small", code=4)
    assert f"was carried out again by data-steward {SECOND} already (entry" in refused.stderr


def test_what_is_no_recorded_step_is_not_reproduced(waiting: Path, team: Team) -> None:
    assert "did you mean `curate/small`?" in run_forge(waiting, team.second, "reproduce", "curate/smal", code=2).stderr
    assert "nobody releases twice" in run_forge(waiting, team.second, "reproduce", "release/small-local", code=2).stderr
    path = waiting / "models" / "data.yaml"
    path.write_text(path.read_text().replace("seed: 3", "seed: 4"))
    commit_as(waiting, team.governed, "cleo", "another split")
    refused = run_forge(waiting, team.second, "reproduce", "curate/small", code=4)
    assert "is not recorded as commit" in refused.stderr


def test_a_record_of_what_the_step_does_not_make_is_found_out(waiting: Path, team: Team) -> None:
    """The first data steward adds a document and signs the record: nothing but carrying the step out again tells."""
    record = record_of(waiting, "curate/small")
    store = store_of(waiting)
    files = {file.path: file for file in store.manifest(record.products["report"]).files}
    contents = {path: store.read_file(record.products["report"], path) for path in files}
    name = next(iter(contents))
    contents[name] = contents[name].replace(b"1", b"2", 1)
    assert contents[name] != store.read_file(record.products["report"], name)
    lie = record.model_copy(update={"products": {**record.products, "report": store.put_bytes(contents).digest}})
    lie, sealed = signed(waiting, team.governed.config, lie, Role.DATA_STEWARD)
    rewrite(waiting, [*bodies_of(waiting), lie], sealed)
    stored = sorted(path.name for path in (waiting / ".forge" / "store").rglob("*") if path.is_file())
    done = run_forge(waiting, team.second, "reproduce", "curate/small", code=1)
    assert "curate/small made something else when it was carried out again; nothing is signed:" in done.stderr
    assert f"report: recorded {lie.products['report']}, made here {record.products['report']}: {name}" in done.stderr
    assert "documents: recorded" not in done.stderr
    assert "both runs name the same processor, libraries and threads" in done.stderr
    assert not any(isinstance(body, Reproduction) for body in bodies_of(waiting))
    assert sorted(path.name for path in (waiting / ".forge" / "store").rglob("*") if path.is_file()) == stored
    run_forge(waiting, team.second, "reproduce", "curate/small", code=1)  # a new run, not the result of that one


def test_what_does_not_hold_is_not_reproduced(waiting: Path, team: Team) -> None:
    record = record_of(waiting, "curate/small")
    other = record.model_copy(update={"metrics": {**record.metrics, "documents": 1}})
    rewrite(waiting, [other if body == record else body for body in bodies_of(waiting)], fresh=True)
    refused = run_forge(waiting, team.second, "reproduce", "curate/small", code=4)
    assert "curate/small is not carried out again, for its record" in refused.stderr
    assert "[statement]" in refused.stderr


def test_an_agent_pulls_no_release_that_too_few_stand_behind(released: Path, team: Team) -> None:
    assert pulled(released, team.governed.config).environment == "local"
    body = reproduction_of(released)
    put_in(released, body, signed_by(released, team.others / "cleo", body, Role.DATA_STEWARD))
    with pytest.raises(TrustError, match="curate/small needs 2 functionaries, has 1"):
        pulled(released, team.governed.config)


def test_a_plan_counts_where_the_store_cannot_be_read(waiting: Path, team: Team) -> None:
    planned = run_forge(waiting, team.governed.config, "plan", "--without-store").stdout
    assert "needs reproduction: curate/small needs 2 functionaries, has 1" in planned
    run_forge(waiting, team.second, "reproduce", "curate/small")
    planned = run_forge(waiting, team.governed.config, "plan", "--without-store").stdout
    assert "needs reproduction" not in planned
    assert planned == run_forge(waiting, team.governed.config, "plan").stdout


def test_what_a_withdrawn_key_signed_does_not_count(released: Path, team: Team) -> None:
    keyid = signer_for(Role.DATA_STEWARD, team.second).public_key.keyid
    spec = {"withdrawn": [{"subject": f"key:{keyid}", "reason": "it was stolen", "serving": "stop"}]}
    document = {"apiVersion": "forge/v1", "kind": "Withdrawals", "metadata": {"name": "small"}, "spec": spec}
    (released / "policies" / "withdrawn.yaml").write_text(yaml.safe_dump(document))
    commit_as(released, team.governed, "cleo", "a key was stolen")
    run_forge(released, team.governed.config, "apply")
    assert f"data-steward {SECOND}'s in entry" in (said := refusal(released, team))
    assert "its key is withdrawn" in said
    refused = run_forge(released, team.second, "reproduce", "curate/small", code=4)
    assert f"the key data-steward {SECOND} is withdrawn" in refused.stderr
    run_forge(released, team.others / "third", "reproduce", "curate/small")
    refusal(released, team)  # what comes after a release does not mend it
    run_forge(released, team.governed.config, "apply", "--force", "release/small-local")
    assert verdict_of(released, team.governed.config).holds


@needs_openssl
def test_a_reproduction_without_its_time_stamp_does_not_count_where_one_is_required(tmp_path: Path, team: Team) -> None:
    folder, first = new_repository(tmp_path / "repository"), tmp_path / "first"
    shutil.copytree(team.governed.config, first)
    shutil.copytree(team.second, tmp_path / "second")
    write_small(folder)
    govern(folder, {**team.supply_chain, "timestamps": "required"}, team.governed.people())
    with serving(make_authority(tmp_path / "acme")) as server:
        with (folder / "forge.toml").open("a") as settings:
            settings.write(f'[timestamps]\nurl = "{server.url}"\n')
        commit_as(folder, team.governed, "cleo", "curated twice, stamped")
        run_forge(folder, first, "keys", "delegate")
        for config in (first, tmp_path / "second"):
            pinned = server.authority.fingerprint
            run_forge(folder, config, "keys", "pin-timestamps", str(server.authority.pem), "--fingerprint", pinned)
        run_forge(folder, first, "apply", code=1)
        run_forge(folder, tmp_path / "second", "reproduce", "curate/small")
        run_forge(folder, first, "apply")
    body = reproduction_of(folder)
    assert {"timestamp-link", "timestamp-provenance", "timestamp-chain-curate"} <= set(body.attestations)
    run_forge(folder, first, "verify", "release/local")
    bare = body.model_copy(update={"attestations": {n: d for n, d in body.attestations.items() if n != "timestamp-link"}})
    rewrite(folder, [bare if each == body else each for each in bodies_of(folder)], fresh=True)
    refused = run_forge(folder, first, "verify", "release/local", code=4).stdout
    assert "has 1 (data-steward data-steward-1)" in refused
    assert "it carries no time stamp, and the supply chain requires one" in refused
