"""Faults of SupplyChain and People, each with its place and what to do."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import DATA, DEPLOYMENT, MODEL, POLICY, SUITE, TOKENIZER
from tests.governed import Governed, make_governed

from forge.canonical import canonical_json
from forge.contract.charter import Charter
from forge.spec.load import load
from forge.spec.resolve import resolve
from forge.spec.supply_chain import SupplyChainSpec


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


def faults(
    governed: Governed, people: dict[str, Any] | None = None, more: dict[str, str] | None = None, **changes: Any
) -> list[str]:
    specs = {"data": DATA, "tokenizer": TOKENIZER, "model": MODEL, "suite": SUITE, "policy": POLICY, "deployment": DEPLOYMENT}
    specs |= more or {}
    for kind, spec in (("SupplyChain", governed.supply_chain(**changes)), ("People", people or governed.people())):
        document = {"apiVersion": "forge/v1", "kind": kind, "metadata": {"name": "small"}, "spec": spec}
        specs[kind] = yaml.safe_dump(document, sort_keys=False, width=1000)
    loaded = load([(f"{name}.yaml", text.encode()) for name, text in specs.items()])
    resolved = resolve(loaded.resources, loaded.broken)
    return [str(item) for item in (*loaded.diagnostics, *resolved.diagnostics)]


_RSA = (
    "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALvEJ6bCqkAXCzFLTBmnzUDPWqOWcWjN\n"
    "Ls8mWIdOYm0CeLTfVPyYsRoCW8ysAIsi7dmXJbuCrAdrpG2wUgVOSHsCAwEAAQ==\n-----END PUBLIC KEY-----\n"
)


def roles_of(governed: Governed, **changes: Any) -> dict[str, Any]:
    return {**governed.supply_chain()["roles"], **changes}


def test_the_governed_example_is_valid(governed: Governed) -> None:
    assert faults(governed) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"approvers": ["anna"]}, "People has no `anna`; did you mean `ana`?"),
        ({"release": {"approvals": {"local": 3}}}, "3 approvals are asked for, but there are 2 approvers"),
        ({"approvers": ["ana", "ana"], "release": {"approvals": {"local": 2}}}, "but there are 1 approvers"),
        ({"release": {"licenses": ["MIT"]}}, "the SupplyChain allows MIT"),
        ({"release": {"evaluations": [{"suite": "EvalSuite/safety"}]}}, "there is no EvalSuite/safety"),
        ({"expires": "2027-01-01"}, "expected a time in UTC such as 2026-01-01T00:00:00Z"),
        ({"expires": "2027-13-01T00:00:00Z"}, "`expires`"),
        ({"separation_of_duties": [["author"]]}, "at least 2 items"),
        ({"separation_of_duties": [["author", "autor"]]}, "expected 'author'"),
        ({"shapes": ["sweep"]}, "'pretrain'"),
        ({"approval": {}}, "unknown key `approval`"),
    ],
)
def test_what_is_wrong_is_named(governed: Governed, changes: dict[str, Any], told: str) -> None:
    found = faults(governed, **changes)
    assert any(told in text for text in found), found


def test_a_threshold_needs_as_many_functionaries_whose_keys_are_valid_at_once(governed: Governed, tmp_path: Path) -> None:
    roles = governed.supply_chain()["roles"]
    one, (second, third) = roles["trainer"]["keys"], (governed.another("trainer", name, tmp_path / name) for name in "bc")
    later = {**second, "valid_from": "2027-01-01T00:00:00Z"}
    past = {**third, "valid_until": "2026-12-01T00:00:00Z"}
    ben = {"holder": "ben"}

    def told(threshold: int, *keys: dict[str, Any]) -> list[str]:
        trainer = {**roles["trainer"], "threshold": threshold, "keys": list(keys)}
        return faults(governed, roles=roles_of(governed, trainer=trainer))

    assert told(1, *one) == []
    assert told(2, *one, second) == []
    assert told(2, *one, later) == []
    (found,) = told(2, *one)  # the weights' key lies beside the trainer's
    assert "roles.trainer: threshold 2: at no time are the keys of more than 1 functionaries valid at once" in found
    assert "more than 1" in told(2, later, past)[0]
    assert "more than 1" in told(2, {**one[0], **ben}, {**second, **ben})[0]  # two keys of one person
    assert told(2, {**one[0], **ben}, {**second, "holder": "ana"}) == []
    assert "more than 2" in told(3, *one, second)[0]
    assert "less than or equal to 10" in told(11, *one)[0]
    assert "greater than or equal to 1" in told(0, *one)[0]


def test_a_threshold_stands_where_something_is_carried_out(governed: Governed, tmp_path: Path) -> None:
    roles = governed.supply_chain()["roles"]
    for role, message in (("releaser", "stands in release.approvals"), ("agent", "the role does no step")):
        keys = [*roles[role]["keys"], governed.another(role, f"{role}-2", tmp_path / role)]
        (found,) = faults(governed, roles=roles_of(governed, **{role: {**roles[role], "threshold": 2, "keys": keys}}))
        assert f"roles.{role}: threshold 2: " in found
        assert message in found


def test_a_threshold_of_one_leaves_the_charter_as_it_was(governed: Governed) -> None:
    plain, written = governed.supply_chain(), governed.supply_chain()
    written["roles"]["trainer"]["threshold"] = 1
    charters = [Charter(supply_chain=SupplyChainSpec.model_validate(chain)) for chain in (plain, written)]
    assert charters[0].digest == charters[1].digest
    assert b"threshold" not in canonical_json(charters[1].to_document())


def test_a_deployment_without_a_required_evaluation_is_named(governed: Governed) -> None:
    more = {"safety": SUITE.replace("name: small", "name: safety", 1)}
    assert "name: safety" in more["safety"]
    assert faults(governed, more=more) == []
    (found,) = faults(governed, more=more, release={"evaluations": [{"suite": "EvalSuite/safety"}]})
    assert found.startswith("deployment.yaml:")
    assert "the SupplyChain lets nothing be released without EvalSuite/safety, and no gate here is about it" in found


def test_a_step_has_one_role_and_none_is_forgotten(governed: Governed) -> None:
    roles = roles_of(governed, releaser={"steps": ["release", "gate"]})
    assert any("the step `gate` is given to evaluator and to releaser" in text for text in faults(governed, roles=roles))
    roles = roles_of(governed, releaser={"steps": []})
    assert any("no role may do: release" in text for text in faults(governed, roles=roles))


def test_roles_that_are_kept_apart_share_no_key_and_no_holder(governed: Governed) -> None:
    shared = {"name": "x", "public": f"the same\n{governed.public('trainer')}\n", "valid_from": "2026-01-01T00:00:00Z"}
    roles = roles_of(governed, evaluator={"steps": ["evaluate", "gate"], "keys": [shared]})
    apart = [["trainer", "evaluator"]]
    assert faults(governed, roles=roles) == []
    told = "has the roles trainer and evaluator, which separation_of_duties keeps apart"
    assert any(told in text for text in faults(governed, roles=roles, separation_of_duties=apart))
    roles = roles_of(governed)
    for role in ("trainer", "evaluator"):
        roles[role] = {**roles[role], "keys": [{**key, "holder": "ana"} for key in roles[role]["keys"]]}
    assert any(f"ana {told}" in text for text in faults(governed, roles=roles, separation_of_duties=apart))


@pytest.mark.parametrize("group", [["author", "trainer"], ["releaser", "author"], ["author", "approver", "evaluator"]])
def test_an_author_is_kept_apart_from_approvers_alone(governed: Governed, group: list[str]) -> None:
    roles = {role: {"steps": rules["steps"]} for role, rules in roles_of(governed).items()}
    assert faults(governed, roles=roles, separation_of_duties=[["author", "approver"]]) == []
    (found,) = faults(governed, roles=roles, separation_of_duties=[["author", "approver"], group])
    other = next(duty for duty in group if duty not in ("author", "approver"))
    assert re.match(r"SupplyChain\.yaml:\d+:\d+: ", found), found
    assert f"nobody can tell that an author has no key of the {other}" in found
    assert f"write [author, approver], and a group of its own for {other}" in found


def test_a_role_that_is_kept_apart_from_approvers_says_whose_its_keys_are(governed: Governed) -> None:
    apart = [["trainer", "evaluator", "approver"]]
    found = faults(governed, separation_of_duties=apart)
    assert len(found) == 3
    told = "separation_of_duties keeps trainer and approver apart, and whose key `weights-1` is does not stand"
    assert any(told in text and "give it a `holder`" in text for text in found), found
    roles = roles_of(governed)
    for role, holder in (("trainer", "ana"), ("evaluator", "ben")):
        roles[role] = {**roles[role], "keys": [{**key, "holder": holder} for key in roles[role]["keys"]]}
    assert faults(governed, roles=roles, separation_of_duties=apart) == []
    keyless = {role: {"steps": rules["steps"]} for role, rules in roles.items()}
    assert faults(governed, roles=keyless, separation_of_duties=apart) == []


@pytest.mark.parametrize(
    ("public", "told"),
    [
        ("nonsense", "not a public key in PEM"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "this is a private key: it is lost now"),
        (
            _RSA,
            "expected an Ed25519 or P-256 key",
        ),
    ],
)
def test_a_key_that_is_none_is_refused(governed: Governed, public: str, told: str) -> None:
    key = {"name": "x", "public": public, "valid_from": "2026-01-01T00:00:00Z"}
    roles = roles_of(governed, agent={"keys": [key]})
    found = faults(governed, roles=roles)
    assert any(told in text for text in found), found


def test_a_private_key_is_never_repeated_in_a_message(governed: Governed) -> None:
    secret = (governed.config / "keys" / "agent.pem").read_text()
    roles = roles_of(governed, agent={"keys": [{"name": "x", "public": secret, "valid_from": "2026-01-01T00:00:00Z"}]})
    body = secret.splitlines()[1]
    assert not any(body in text for text in faults(governed, roles=roles))


@pytest.mark.parametrize("public", ["ssh-rsa AAAA", "ssh-ed25519 AAAA", "", "ecdsa-sha2-nistp256 AAAA x"])
def test_a_person_has_an_ed25519_key(governed: Governed, public: str) -> None:
    people = governed.people()
    people["people"][0]["keys"][0]["public"] = public
    assert any("`public`" in text for text in faults(governed, people))


def test_one_key_is_one_persons(governed: Governed) -> None:
    people = governed.people()
    people["people"][1]["keys"][0]["public"] = governed.person("ana").split()[0] + " " + governed.person("ana").split()[1]
    assert any("ana and ben have the same key" in text for text in faults(governed, people))


def test_validity_ends_after_it_begins(governed: Governed) -> None:
    people = governed.people()
    people["people"][0]["keys"][0]["valid_until"] = "2019-01-01T00:00:00Z"
    assert any("valid_until is not later than valid_from" in text for text in faults(governed, people))


def test_a_second_supply_chain_is_one_too_many(governed: Governed, tmp_path: Path) -> None:
    del tmp_path
    text = yaml.safe_dump(
        {
            "apiVersion": "forge/v1",
            "kind": "SupplyChain",
            "metadata": {"name": "a"},
            "spec": governed.supply_chain(approvers=[], release={}),
        }
    )
    loaded = load([("a.yaml", text.encode()), ("b.yaml", text.replace("name: a\n", "name: b\n", 1).encode())])
    found = [str(item) for item in resolve(loaded.resources).diagnostics]
    assert any("a commit has one SupplyChain, and SupplyChain/a is there already" in item for item in found), found


def test_a_person_has_one_line_for_a_key_and_one_way_of_writing_it(governed: Governed) -> None:
    """Else a key would inject a line into what ssh-keygen reads, or pass as a second person's."""
    kind, base64, *_ = governed.person("ana").split()
    written = [
        (f'{kind} {base64}\nben\tnamespaces="git"\t{kind}\t{base64}', "more than one line, or a control character"),
        (f"{kind}\t{base64}", "more than one line, or a control character"),
        (f"{kind} {base64} a\x1b[2J", "more than one line, or a control character"),
        (f"{kind} {base64[:40]}*{base64[40:]}", "not as OpenSSH writes this key: expected `ssh-ed25519 AAAA"),
        (f"{kind} {base64}====", "not as OpenSSH writes this key: expected `ssh-ed25519 AAAA"),
    ]
    for public, told in written:
        people = governed.people()
        people["people"].append({"name": "dan", "keys": [{"public": public, "valid_from": "2020-01-01T00:00:00Z"}]})
        assert any(told in line for line in faults(governed, people)), public
    people = governed.people()
    people["people"][0]["keys"][0]["public"] += "\n"
    assert faults(governed, people) == []
